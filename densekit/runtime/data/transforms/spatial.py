"""Random and fixed policies of geometry: resizes, flips, rotations and crops."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import (
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    Transform,
    TransformList,
    VFlipTransform,
)

from densekit.runtime.data.transforms.augmentation import Augmentation, as_augmentation
from densekit.runtime.data.transforms.geometry import (
    BILINEAR,
    CropTransform,
    ExtentTransform,
    ResizeTransform,
    RotationTransform,
)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(choices)}.")


class RandomApply(Augmentation):
    """Applies an augmentation with a given probability."""

    def __init__(self, tfm_or_aug: Augmentation | Transform, prob: float = 0.5) -> None:
        if not 0.0 <= prob <= 1.0:
            raise ValueError(f"prob={prob} is not a probability.")
        self.aug, self.prob = as_augmentation(tfm_or_aug), prob

    def get_transform(self, *args: Any) -> Transform:
        return self.aug.get_transform(*args) if self._rand_range() < self.prob else NoOpTransform()

    def __call__(self, aug_input: Any) -> Transform:
        return self.aug(aug_input) if self._rand_range() < self.prob else NoOpTransform()


class RandomFlip(Augmentation):
    """Flips the image, horizontally or vertically, with a given probability."""

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False) -> None:
        if horizontal == vertical:
            raise ValueError("RandomFlip needs exactly one of horizontal and vertical; use two of them for both.")
        self.prob, self.horizontal, self.vertical = prob, horizontal, vertical

    def get_transform(self, image: np.ndarray) -> Transform:
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        h, w = image.shape[:2]
        return HFlipTransform(w) if self.horizontal else VFlipTransform(h)


class Resize(Augmentation):
    """Resizes to a fixed size."""

    def __init__(self, shape: int | Sequence[int], interp: int = BILINEAR) -> None:
        """Sets the size: (h, w), or one number for both."""
        self.shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        return ResizeTransform(h, w, self.shape[0], self.shape[1], self.interp)


class RandomResize(Augmentation):
    """Resizes to one of several sizes."""

    def __init__(self, shape_list: Sequence[tuple[int, int]], interp: int = BILINEAR) -> None:
        """Sets the sizes, each (h, w)."""
        self.shape_list, self.interp = shape_list, interp

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        new_h, new_w = self.shape_list[np.random.randint(len(self.shape_list))]
        return ResizeTransform(h, w, new_h, new_w, self.interp)


class ResizeShortestEdge(Augmentation):
    """Scales the shorter edge to a drawn length, or less where the longer edge would pass ``max_size``."""

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = BILINEAR,
    ) -> None:
        """Sets the lengths, in pixels.

        Args:
            short_edge_length: (min, max), both possible, with "range"; a list to choose from with "choice". 0 means
                no resizing.
            max_size: Longest edge that may come out.
            sample_style: "range" or "choice".
            interp: A PIL resampling filter.
        """
        _check_choice("sample_style", sample_style, ("range", "choice"))
        self.is_range = sample_style == "range"
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        if self.is_range and len(short_edge_length) != 2:
            raise ValueError(f"short_edge_length={short_edge_length} is not (min, max), which 'range' draws from.")
        self.short_edge_length, self.max_size = short_edge_length, max_size
        self.sample_style, self.interp = sample_style, interp

    def get_transform(self, image: np.ndarray) -> Transform:
        lengths = self.short_edge_length
        length = np.random.randint(lengths[0], lengths[1] + 1) if self.is_range else np.random.choice(lengths)
        if length == 0:
            return NoOpTransform()
        h, w = image.shape[:2]
        return ResizeTransform(h, w, *self.get_output_shape(h, w, int(length), self.max_size), self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """Returns the (h, w) that an image of (oldh, oldw) gets, rounded half up."""
        scale = short_edge_length / min(oldh, oldw)
        # The short edge is exact; the product could miss it by a rounding error.
        h, w = (short_edge_length, scale * oldw) if oldh < oldw else (scale * oldh, short_edge_length)
        if max(h, w) > max_size:
            shrink = max_size / max(h, w)
            h, w = h * shrink, w * shrink
        return max(int(h + 0.5), 1), max(int(w + 0.5), 1)  # of a picture like a thread, too


class ResizeScale(Augmentation):
    """Fits the image into a target box that is scaled at random: the first half of large scale jitter."""

    def __init__(
        self, min_scale: float, max_scale: float, target_height: int, target_width: int, interp: int = BILINEAR
    ) -> None:
        self.min_scale, self.max_scale = min_scale, max_scale
        self.target_height, self.target_width, self.interp = target_height, target_width, interp

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        scale = np.random.uniform(self.min_scale, self.max_scale)
        fit = min(self.target_height * scale / h, self.target_width * scale / w)
        # Rounds half to even, as the recipe's numbers do.
        return ResizeTransform(h, w, int(np.round(h * fit)), int(np.round(w * fit)), self.interp)


class RandomRotation(Augmentation):
    """Rotates by a drawn angle, counter-clockwise."""

    def __init__(
        self,
        angle: float | Sequence[float],
        expand: bool = True,
        center: Sequence[Any] | None = None,
        sample_style: str = "range",
        interp: int | None = None,
    ) -> None:
        """Sets what is drawn.

        Args:
            angle: Degrees: (min, max) with "range", a list with "choice", or one number.
            expand: Whether the output grows to hold the whole rotated image.
            center: Centre relative to the image, (0, 0) top left to (1, 1) bottom right: the two corners of a region
                with "range", a list of points with "choice". The image's centre if None; no effect with ``expand``.
            sample_style: "range" or "choice".
            interp: An OpenCV interpolation flag.
        """
        _check_choice("sample_style", sample_style, ("range", "choice"))
        self.is_range = sample_style == "range"
        self.angle = (angle, angle) if isinstance(angle, float | int) else angle
        self.center = (center, center) if center is not None and isinstance(center[0], float | int) else center
        self.expand, self.sample_style, self.interp = expand, sample_style, interp

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        angle = np.random.uniform(self.angle[0], self.angle[1]) if self.is_range else np.random.choice(self.angle)
        center = None
        if self.center is not None:
            x, y = self._draw_center()
            center = (w * x, h * y)
        if angle % 360 == 0:
            return NoOpTransform()
        return RotationTransform(h, w, float(angle), expand=self.expand, center=center, interp=self.interp)

    def _draw_center(self) -> tuple[float, float]:
        centers = np.asarray(self.center, dtype=float)  # (choices or corners, 2)
        if self.is_range:
            return np.random.uniform(*centers[:, 0]), np.random.uniform(*centers[:, 1])
        x, y = centers[np.random.randint(len(centers))]
        return x, y


class RandomExtent(Augmentation):
    """Cuts a random rectangle that may reach beyond the image, where it is black."""

    def __init__(self, scale_range: tuple[float, float], shift_range: tuple[float, float]) -> None:
        """Sets what is drawn.

        Args:
            scale_range: (min, max) of the rectangle's size relative to the image.
            shift_range: (x, y): the rectangle's centre moves by up to half this fraction of the image's size.
        """
        self.scale_range, self.shift_range = scale_range, shift_range

    def get_transform(self, image: np.ndarray) -> Transform:
        size = np.array(image.shape[1::-1], dtype=float)  # (w, h)
        half = 0.5 * size * np.random.uniform(*self.scale_range)
        shift = np.array([self.shift_range[i] * size[i] * (np.random.rand() - 0.5) for i in range(2)])
        x0, y0 = (shift - half) + 0.5 * size
        x1, y1 = (shift + half) + 0.5 * size
        return ExtentTransform((x0, y0, x1, y1), output_size=(int(y1 - y0), int(x1 - x0)))


class FixedSizeCrop(Augmentation):
    """Cuts a window of a fixed size at a random place, and pads smaller images at the right and the bottom."""

    def __init__(
        self, crop_size: tuple[int, int], pad: bool = True, pad_value: float = 128.0, seg_pad_value: int = 255
    ) -> None:
        """Sets the window.

        Args:
            crop_size: (h, w), pixels.
            pad: Whether images smaller than the window are padded up to it.
            pad_value: Colour of the padding.
            seg_pad_value: Label of the padding.
        """
        self.crop_size, self.pad, self.pad_value, self.seg_pad_value = crop_size, pad, pad_value, seg_pad_value

    def get_transform(self, image: np.ndarray) -> TransformList:
        size, window = np.array(image.shape[:2]), np.array(self.crop_size)
        # One draw places both axes.
        offset = np.round(np.maximum(size - window, 0) * np.random.uniform(0.0, 1.0)).astype(int)
        steps: list[Transform] = [CropTransform(offset[1], offset[0], window[1], window[0], size[1], size[0])]
        if self.pad:
            missing, kept = np.maximum(window - size, 0), np.minimum(size, window)
            steps.append(
                PadTransform(0, 0, missing[1], missing[0], kept[1], kept[0], self.pad_value, self.seg_pad_value)
            )
        return TransformList(steps)


class RandomCrop(Augmentation):
    """Cuts a random window.

    ``crop_type`` says what ``crop_size`` means:

    - "relative": (h, w) as fractions of the image, in (0, 1].
    - "relative_range": the least such fractions; each is drawn up to 1.
    - "absolute": (h, w) in pixels, or the image's size where that is less.
    - "absolute_range": (min, max) in pixels, from which height and width are both drawn.
    """

    def __init__(self, crop_type: str, crop_size: Sequence[float]) -> None:
        _check_choice("crop_type", crop_type, ("relative_range", "relative", "absolute", "absolute_range"))
        if crop_type == "absolute_range" and crop_size[0] > crop_size[1]:
            raise ValueError(f"crop_size={tuple(crop_size)} is not (min, max).")
        self.crop_type, self.crop_size = crop_type, crop_size

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        crop_h, crop_w = self.get_crop_size((h, w))
        if crop_h > h or crop_w > w:
            raise ValueError(f"{self} asks for a window of {(crop_h, crop_w)} from an image of {(h, w)}.")
        y0 = np.random.randint(h - crop_h + 1)
        x0 = np.random.randint(w - crop_w + 1)
        return CropTransform(x0, y0, crop_w, crop_h)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Draws the window's (h, w) in pixels for an image of (h, w)."""
        h, w = image_size
        if self.crop_type == "absolute":
            return min(int(self.crop_size[0]), h), min(int(self.crop_size[1]), w)
        if self.crop_type == "absolute_range":
            low, high = (int(v) for v in self.crop_size)
            crop_h = np.random.randint(min(h, low), min(h, high) + 1)
            return crop_h, np.random.randint(min(w, low), min(w, high) + 1)
        fraction_h, fraction_w = self.crop_size
        if self.crop_type == "relative_range":
            least = np.asarray(self.crop_size, dtype=np.float32)
            fraction_h, fraction_w = least + np.random.rand(2) * (1 - least)
        return int(h * fraction_h + 0.5), int(w * fraction_w + 0.5)


class RandomCrop_CategoryAreaConstraint(Augmentation):  # noqa: N801 - the name that users know
    """Cuts a random window in which no category takes too much of the labelled area; gives up after ten draws."""

    def __init__(
        self,
        crop_type: str,
        crop_size: Sequence[float],
        single_category_max_area: float = 1.0,
        ignored_category: int | None = None,
    ) -> None:
        """Sets the constraint.

        Args:
            crop_type: As for :class:`RandomCrop`.
            crop_size: As for :class:`RandomCrop`.
            single_category_max_area: Largest allowed fraction of one category; 1 switches the constraint off.
            ignored_category: Label that does not count.
        """
        self.crop_aug = RandomCrop(crop_type, crop_size)
        self.crop_type, self.crop_size = crop_type, crop_size
        self.single_category_max_area, self.ignored_category = single_category_max_area, ignored_category

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> Transform:
        crop = self.crop_aug.get_transform(image)
        if self.single_category_max_area >= 1.0:
            return crop
        for _ in range(9):
            if self._is_mixed(crop.apply_segmentation(sem_seg)):
                break
            crop = self.crop_aug.get_transform(image)
        return crop

    def _is_mixed(self, window: np.ndarray) -> bool:
        labels, counts = np.unique(window, return_counts=True)
        if self.ignored_category is not None:
            counts = counts[labels != self.ignored_category]
        return len(counts) > 1 and counts.max() < counts.sum() * self.single_category_max_area


class MinIoURandomCrop(Augmentation):
    """Cuts a random window that overlaps every box by a drawn least IoU and holds the centre of one (SSD)."""

    def __init__(
        self,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop_size: float = 0.3,
        mode_trials: int = 1000,
        crop_trials: int = 50,
    ) -> None:
        """Sets what is drawn.

        Args:
            min_ious: Least IoUs to choose from; "no crop" and "any crop" are always among the choices.
            min_crop_size: Least height and width of the window, relative to the image.
            mode_trials: How many least IoUs are tried.
            crop_trials: How many windows are tried for each of them.
        """
        self.min_ious, self.min_crop_size = min_ious, min_crop_size
        self.mode_trials, self.crop_trials = mode_trials, crop_trials

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> Transform:
        if boxes is None:
            return NoOpTransform()
        for _ in range(self.mode_trials):
            least = np.random.choice((1, *self.min_ious, 0))
            if least == 1:
                return NoOpTransform()
            for _ in range(self.crop_trials):
                window = self._draw_window(*image.shape[:2])
                if window is not None and self._holds(np.array(window, dtype=float), boxes.reshape(-1, 4), least):
                    x0, y0, x1, y1 = window
                    return CropTransform(x0, y0, x1 - x0, y1 - y0)
        return NoOpTransform()

    def _draw_window(self, h: int, w: int) -> tuple[int, int, int, int] | None:
        """Draws (x0, y0, x1, y1) in pixels; None if it is too narrow, too flat or empty."""
        new_w = np.random.uniform(self.min_crop_size * w, w)
        new_h = np.random.uniform(self.min_crop_size * h, h)
        if not 0.5 <= new_h / new_w <= 2:
            return None
        x, y = np.random.uniform(0, w - new_w), np.random.uniform(0, h - new_h)
        x0, y0, x1, y1 = int(x), int(y), int(x + new_w), int(y + new_h)
        return None if x0 == x1 or y0 == y1 else (x0, y0, x1, y1)

    @staticmethod
    def _holds(window: np.ndarray, boxes: np.ndarray, least: float) -> bool:
        if len(boxes) == 0:
            return True
        overlap = np.minimum(boxes[:, 2:], window[2:]) - np.maximum(boxes[:, :2], window[:2])
        inter = np.prod(np.clip(overlap, 0, None), axis=1)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(window[2:] - window[:2])
        if (inter / np.maximum(areas - inter, 1e-12)).min() < least:
            return False
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        return bool(((centres > window[:2]) & (centres < window[2:])).all(axis=1).any())
