"""The augmentation of semantic segmentation: scales, rotation, crops with padding, blur, colours and mirroring.

Each step has its key, and a step whose key is off is left out. Images, label maps, boxes and masks move together. What
lies outside a picture has the mean colour of the data and the ignored label; masks of instances do not reach it.
All that is random comes from numpy's generator, so one seed gives one picture.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from densekit.d2.config import CfgNode
from densekit.d2.data import detection_utils as utils
from densekit.d2.data import transforms as T
from densekit.data.colour import SSDColours

__all__ = ["Blur", "CropAround", "PadToSize", "Rotate", "ScaleOwnSize", "refuse_steps", "semantic_augmentations"]

Colour = Sequence[float]


def semantic_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Makes the steps of training that a configuration asks for, in the order in which they are done.

    ``INPUT.SCALES`` or ``INPUT.MIN_SIZE_TRAIN``, ``INPUT.ROTATION``, ``INPUT.CROP``, ``INPUT.COLOR_AUG_SSD``,
    ``INPUT.BLUR``, ``INPUT.RANDOM_FLIP``.

    Raises:
        ValueError: A key has a value that its step cannot use.
    """
    keys, mean = cfg.INPUT, tuple(cfg.MODEL.PIXEL_MEAN)
    ignore = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    resize, *flip = utils.build_augmentation(cfg, True)
    steps: list[T.Augmentation] = [ScaleOwnSize(keys.SCALES, keys.SCALES_SAMPLING) if keys.SCALES else resize]
    if keys.ROTATION:
        steps.append(T.RandomApply(Rotate(_pair(keys.ROTATION, "INPUT.ROTATION"), mean, ignore), prob=0.5))
    if keys.CROP.ENABLED:
        steps.extend(_crop(keys.CROP, mean, ignore))
    if keys.COLOR_AUG_SSD:
        steps.append(SSDColours(keys.FORMAT))
    if keys.BLUR:
        steps.append(T.RandomApply(Blur(_pair(keys.BLUR, "INPUT.BLUR")), prob=0.5))
    return [*steps, *flip]


def refuse_steps(cfg: CfgNode) -> None:
    """Refuses the keys of these steps for a mapper that would leave them out in silence.

    Raises:
        ValueError: One of them is set.
    """
    keys = cfg.INPUT
    values = {"SCALES": keys.SCALES, "ROTATION": keys.ROTATION, "BLUR": keys.BLUR, "CROP.PAD": keys.CROP.PAD}
    for name, value in values.items():
        if value:
            raise ValueError(
                f"INPUT.{name} is a step of INPUT.MAPPER CropAfterResizeMapper, and this training has another mapper "
                f"({keys.MAPPER or 'the one of its task'}). Set INPUT.MAPPER, or leave the key out."
            )


def _crop(keys: CfgNode, mean: Colour, ignore: int) -> list[T.Augmentation]:
    if keys.PAD and keys.TYPE != "absolute":
        raise ValueError(
            f"INPUT.CROP.PAD fills pictures up to a size in pixels, and INPUT.CROP.TYPE is {keys.TYPE!r}. Set it to "
            "absolute, or PAD to False."
        )
    crop: T.Augmentation = T.RandomCrop(keys.TYPE, keys.SIZE)
    if keys.SINGLE_CATEGORY_MAX_AREA < 1:
        crop = T.RandomCrop_CategoryAreaConstraint(keys.TYPE, keys.SIZE, keys.SINGLE_CATEGORY_MAX_AREA, ignore)
    padding = [PadToSize((int(keys.SIZE[0]), int(keys.SIZE[1])), mean, ignore)] if keys.PAD else []
    return [*padding, CropAround(crop)]


def _pair(values: Sequence[float], key: str) -> tuple[float, float]:
    if len(values) != 2 or values[0] > values[1]:
        raise ValueError(f"{key} is {tuple(values)}. Write the least and the largest value, or () for none.")
    return values[0], values[1]


class ScaleOwnSize(T.Augmentation):
    """Resizes a picture by a factor of its own size.

    Args:
        factors: The least and the largest with ``style`` "range", those to choose from with "choice".
        style: As above.

    Raises:
        ValueError: A factor is not positive, a range has not two in ascending order, or the style is another.
    """

    def __init__(self, factors: Sequence[float], style: str) -> None:
        super().__init__()
        if style not in ("range", "choice"):
            raise ValueError(f"INPUT.SCALES_SAMPLING is {style!r}. Write range or choice.")
        if min(factors) <= 0:
            raise ValueError(f"INPUT.SCALES is {tuple(factors)}. Factors of a size are positive.")
        self.factors = _pair(factors, "INPUT.SCALES") if style == "range" else tuple(factors)
        self.style = style

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        drawn = (
            np.random.uniform(self.factors[0], self.factors[1])
            if self.style == "range"
            else np.random.choice(self.factors)
        )
        size = [max(1, round(side * float(drawn))) for side in (height, width)]
        return T.ResizeTransform(height, width, *size)


class Rotate(T.Augmentation):
    """Turns a picture about its centre, counter-clockwise; it keeps its size and loses its corners.

    Args:
        angles: The least and the largest, degrees.
        colour: Of what comes from outside, one value for a channel.
        label: Of what comes from outside.
    """

    def __init__(self, angles: tuple[float, float], colour: Colour, label: int) -> None:
        super().__init__()
        self.angles, self.colour, self.label = angles, colour, label

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        return FilledRotation(height, width, np.random.uniform(*self.angles), self.colour, self.label)


class FilledRotation(T.RotationTransform):
    """The host's rotation without growth, with a colour and a label for what comes from outside."""

    def __init__(self, h: int, w: int, angle: float, colour: Colour, label: int) -> None:
        super().__init__(h, w, angle, expand=False)
        self.colour, self.label = colour, label

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        if interp is not None:  # the host turns masks of instances by it
            return super().apply_image(img, interp)
        return self._turned(img, cv2.INTER_LINEAR, _rounded(self.colour, img))

    def apply_labels(self, labels: np.ndarray) -> np.ndarray:
        """Turns a label map (H, W)."""
        return self._turned(labels, cv2.INTER_NEAREST, (self.label,))

    def _turned(self, array: np.ndarray, flags: int, fill: Colour) -> np.ndarray:
        size = (self.bound_w, self.bound_h)
        turned = cv2.warpAffine(array, self.rm_image, size, flags=flags, borderMode=cv2.BORDER_CONSTANT,
                                borderValue=fill)  # fmt: skip
        return turned.reshape(array.shape)  # OpenCV drops a single channel


class PadToSize(T.Augmentation):
    """Fills pictures up to a size at the right and the bottom.

    Args:
        size: (height, width) in pixels; what is larger stays as it is.
        colour: Of the padding, one value for a channel.
        label: Of the padding.
    """

    def __init__(self, size: tuple[int, int], colour: Colour, label: int) -> None:
        super().__init__()
        self.size, self.colour, self.label = size, colour, label

    def get_transform(self, image: np.ndarray) -> T.Transform:
        bottom, right = (max(0, wanted - side) for wanted, side in zip(self.size, image.shape[:2]))
        return FilledPadding(bottom, right, self.colour, self.label) if bottom or right else T.NoOpTransform()


class FilledPadding(T.Transform):
    """Padding at the bottom and the right with a colour for each channel."""

    def __init__(self, bottom: int, right: int, colour: Colour, label: int) -> None:
        super().__init__()
        self.bottom, self.right, self.colour, self.label = bottom, right, colour, label

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        height, width = img.shape[:2]
        padded = np.empty((height + self.bottom, width + self.right, *img.shape[2:]), img.dtype)
        padded[:] = _rounded(self.colour, img)
        padded[:height, :width] = img
        return padded

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Pads a mask, with nothing."""
        return np.pad(segmentation, ((0, self.bottom), (0, self.right)))

    def apply_labels(self, labels: np.ndarray) -> np.ndarray:
        """Pads a label map (H, W)."""
        return np.pad(labels, ((0, self.bottom), (0, self.right)), constant_values=self.label)

    def inverse(self) -> T.Transform:
        raise NotImplementedError("Padding is of training alone, where nothing goes back.")


class CropAround(T.Augmentation):
    """Cuts a window at random, or around a pixel of the class that the sample asks for (:mod:`.samplers`).

    Args:
        crop: The host's, which says how large the window is and where it lies if no class is asked for.
    """

    def __init__(self, crop: Any) -> None:
        super().__init__()
        self.crop = crop

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray | None, crop_class: int | None) -> T.Transform:
        limited = hasattr(self.crop, "crop_aug")
        place = None if crop_class is None or sem_seg is None else _pixel_of(sem_seg, crop_class)
        if place is None:  # no class is asked for, or its last pixel was lost as the picture shrank
            return self.crop.get_transform(image, sem_seg) if limited else self.crop.get_transform(image)
        height, width = image.shape[:2]
        plain = self.crop.crop_aug if limited else self.crop
        crop_h, crop_w = plain.get_crop_size((height, width))
        y0 = int(np.clip(place[0] - crop_h // 2, 0, height - crop_h))
        x0 = int(np.clip(place[1] - crop_w // 2, 0, width - crop_w))
        return T.CropTransform(x0, y0, crop_w, crop_h)


def _pixel_of(labels: np.ndarray, wanted: int) -> tuple[int, int] | None:
    """Draws a pixel of a class, (row, column), all being equal; None if it has none."""
    places = np.flatnonzero(labels == wanted)
    if not len(places):
        return None
    row, column = divmod(int(places[np.random.randint(len(places))]), labels.shape[1])
    return row, column


class Blur(T.Augmentation):
    """Blurs with a Gaussian, as wide as OpenCV makes it for its standard deviation.

    Args:
        sigmas: The least and the largest standard deviation, pixels.

    Raises:
        ValueError: One is not positive.
    """

    def __init__(self, sigmas: tuple[float, float]) -> None:
        super().__init__()
        if sigmas[0] <= 0:
            raise ValueError(f"INPUT.BLUR is {sigmas}. Standard deviations are positive.")
        self.sigmas = sigmas

    def get_transform(self, image: np.ndarray) -> T.Transform:
        sigma = np.random.uniform(*self.sigmas)
        # OpenCV's sigma for a width, 0.3 ((width - 1) / 2 - 1) + 0.8, solved for the width.
        side = 2 * max(1, round((sigma - 0.8) / 0.3 + 1)) + 1
        return T.ColorTransform(lambda img: cv2.GaussianBlur(img, (side, side), sigma).reshape(img.shape))


def _rounded(colour: Colour, image: np.ndarray) -> Colour:
    """Returns a colour in the numbers of an image."""
    return [round(value) for value in colour] if image.dtype.kind == "u" else list(colour)
