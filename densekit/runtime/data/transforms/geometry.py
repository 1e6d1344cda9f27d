"""Transforms that move pixels: resize, sub-window, rotation and crop.

A transform is one fixed mapping; what draws random numbers is in ``spatial.py``. Images and label maps are (H, W) or
(H, W, C) arrays; coordinates are (N, 2) arrays of (x, y) in pixels, the corner of the first pixel being (0, 0).
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from fvcore.transforms.transform import CropTransform as _FvcoreCrop
from fvcore.transforms.transform import Transform, TransformList
from PIL import Image

BILINEAR = Image.Resampling.BILINEAR
NEAREST = Image.Resampling.NEAREST

_TORCH_MODES = {BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}


def _as_pil(image: np.ndarray) -> Image.Image:
    """Returns a PIL image; PIL writes a single channel without its axis."""
    return Image.fromarray(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image)


def _from_pil(image: Image.Image, like: np.ndarray) -> np.ndarray:
    array = np.asarray(image)
    return array[:, :, None] if array.ndim < like.ndim else array


class ResizeTransform(Transform):
    """Resizes to a given size: uint8 images through PIL (with its antialiasing), other types without antialiasing."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        """Fixes the mapping.

        Args:
            h: Height of the input, pixels.
            w: Width of the input, pixels.
            new_h: Height of the output, pixels.
            new_w: Width of the output, pixels.
            interp: A PIL resampling filter; bilinear if None.
        """
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        if img.shape[:2] != (self.h, self.w):
            raise ValueError(f"ResizeTransform was made for {(self.h, self.w)} (h, w), the image is {img.shape[:2]}.")
        method = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            return _from_pil(_as_pil(img).resize((self.new_w, self.new_h), method), like=img)
        if method == NEAREST:
            return img[_nearest_rows(self.h, self.new_h)[:, None], _nearest_rows(self.w, self.new_w)]
        return self._interpolate(img, _TORCH_MODES[Image.Resampling(method)])

    def _interpolate(self, img: np.ndarray, mode: str) -> np.ndarray:
        planes = torch.from_numpy(np.ascontiguousarray(img)).reshape(self.h, self.w, -1).permute(2, 0, 1)  # (C, h, w)
        resized = F.interpolate(planes[None], (self.new_h, self.new_w), mode=mode, align_corners=False)[0]
        return resized.permute(1, 2, 0).reshape(self.new_h, self.new_w, *img.shape[2:]).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords[:, 0] = coords[:, 0] * (self.new_w / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=NEAREST)

    def inverse(self) -> Transform:
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


def _nearest_rows(size: int, new_size: int) -> np.ndarray:
    """Returns for each output row the input row that torch's "nearest" takes (its float32 arithmetic included)."""
    rows = np.floor(np.arange(new_size, dtype=np.float32) * np.float32(size / new_size)).astype(np.int64)
    return np.minimum(rows, size - 1)


class ExtentTransform(Transform):
    """Cuts a rectangle out of the image, which may reach beyond it, and scales it to the output size."""

    def __init__(
        self,
        src_rect: tuple[float, float, float, float],
        output_size: tuple[int, int],
        interp: int = BILINEAR,
        fill: int = 0,
    ) -> None:
        """Fixes the mapping.

        Args:
            src_rect: (x0, y0, x1, y1) of the rectangle, input pixels.
            output_size: (h, w) of the output, pixels.
            interp: A PIL resampling filter.
            fill: Colour for what lies outside the image.
        """
        super().__init__()
        self.src_rect, self.output_size, self.interp, self.fill = src_rect, output_size, interp, fill

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        h, w = self.output_size
        out = _as_pil(img).transform(
            (w, h),
            Image.Transform.EXTENT,
            data=self.src_rect,
            resample=self.interp if interp is None else interp,
            fill=self.fill,
        )
        return _from_pil(out, like=img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        h, w = self.output_size
        x0, y0, x1, y1 = self.src_rect
        centre = np.array([0.5 * (x0 + x1), 0.5 * (y0 + y1)])
        scale = np.array([w / (x1 - x0), h / (y1 - y0)])
        moved = (coords.astype(np.float32) - centre) * scale + np.array([0.5 * w, 0.5 * h])
        return moved.astype(np.float32)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=NEAREST)


class RotationTransform(Transform):
    """Rotates counter-clockwise about a centre, by default with an output that holds the whole rotated image."""

    def __init__(
        self,
        h: int,
        w: int,
        angle: float,
        expand: bool = True,
        center: Sequence[float] | None = None,
        interp: int | None = None,
    ) -> None:
        """Fixes the mapping.

        Args:
            h: Height of the input, pixels.
            w: Width of the input, pixels.
            angle: Degrees, counter-clockwise.
            expand: Whether the output grows so that nothing is cut; otherwise it keeps the input's size.
            center: (x, y) of the centre, pixels; the image's own if None. It has no effect with ``expand``.
            interp: An OpenCV interpolation flag; linear if None.
        """
        super().__init__()
        self.h, self.w, self.angle, self.expand = h, w, angle, expand
        self.image_center = np.array((w / 2, h / 2))
        self.center = self.image_center if center is None else center
        self.interp = cv2.INTER_LINEAR if interp is None else interp
        self.bound_h, self.bound_w = h, w
        if expand:
            cos, sin = abs(np.cos(np.deg2rad(angle))), abs(np.sin(np.deg2rad(angle)))
            self.bound_w, self.bound_h = int(np.rint(h * sin + w * cos)), int(np.rint(h * cos + w * sin))
        self.rm_coords = self._matrix(0.0)
        # OpenCV puts the centre of the first pixel at (0, 0), half a pixel from our corner.
        self.rm_image = self._matrix(-0.5)

    def _matrix(self, offset: float) -> np.ndarray:
        """Returns the (2, 3) affine matrix, in a frame whose origin lies at ``-offset``."""
        matrix = cv2.getRotationMatrix2D((self.center[0] + offset, self.center[1] + offset), float(self.angle), 1)
        if self.expand:
            moved = matrix[:, :2] @ (self.image_center + offset) + matrix[:, 2]
            matrix[:, 2] = matrix[:, 2] + (np.array([self.bound_w / 2, self.bound_h / 2]) + offset - moved)
        return matrix

    @property
    def _is_identity(self) -> bool:
        return self.angle % 360 == 0

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        if len(img) == 0 or self._is_identity:
            return img
        if img.shape[:2] != (self.h, self.w):
            raise ValueError(f"RotationTransform was made for {(self.h, self.w)} (h, w), the image is {img.shape[:2]}.")
        flags = self.interp if interp is None else interp
        return cv2.warpAffine(img, self.rm_image, (self.bound_w, self.bound_h), flags=flags)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords = np.asarray(coords, dtype=float)
        if len(coords) == 0 or self._is_identity:
            return coords
        return coords @ self.rm_coords[:, :2].T + self.rm_coords[:, 2]

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=cv2.INTER_NEAREST)

    def inverse(self) -> Transform:
        """Returns the rotation back followed by the crop to the original size.

        Raises:
            NotImplementedError: Without ``expand`` a part of the image is lost.
        """
        if not self.expand:
            raise NotImplementedError("A rotation without `expand` cuts corners off and has no inverse.")
        back = RotationTransform(self.bound_h, self.bound_w, -self.angle, True, None, self.interp)
        margin_x, margin_y = (back.bound_w - self.w) // 2, (back.bound_h - self.h) // 2
        return TransformList([back, CropTransform(margin_x, margin_y, self.w, self.h)])


class CropTransform(_FvcoreCrop):
    """fvcore's crop, with polygons cut at the window by own code in place of the shapely package."""

    def apply_polygons(self, polygons: list) -> list[np.ndarray]:
        """Cuts polygons at the crop window.

        Args:
            polygons: (P, 2) arrays of (x, y), input pixels.

        Returns:
            The parts inside, each an (M, 2) float64 array in the window's frame; one polygon may fall apart into
            several, and those outside vanish.
        """
        origin = np.array([self.x0, self.y0], dtype=np.float64)
        parts = [np.asarray(p, dtype=np.float64).reshape(-1, 2) - origin for p in polygons]
        for axis, size in ((0, self.w), (1, self.h)):
            for sign, bound in ((1.0, 0.0), (-1.0, -float(size))):
                parts = [piece for part in parts for piece in _cut(part, axis, sign, bound)]
        return parts

    def inverse(self) -> Transform:
        """Returns the padding that puts the window back; needs ``orig_w`` and ``orig_h``."""
        if self.orig_w is None or self.orig_h is None:
            raise ValueError("CropTransform has an inverse only if it was made with orig_w and orig_h.")
        return super().inverse()


def _cut(polygon: np.ndarray, axis: int, sign: float, bound: float) -> list[np.ndarray]:
    """Returns the parts of a polygon where ``sign * coordinate >= bound``.

    The border is crossed an even number of times. Along the border, the stretches between the first and second, third
    and fourth ... crossing lie inside the polygon, so these pairs close the chains of vertices that stay; a polygon
    that is not convex falls apart without bridges between its parts.
    """
    distance = sign * polygon[:, axis] - bound
    inside = distance >= 0
    if inside.all():
        return [polygon]
    if not inside.any():
        return []
    count = len(polygon)
    start = int(np.argmax(~inside))  # begin outside, so that no chain wraps around the end
    order = (np.arange(count) + start) % count
    polygon, distance, inside = polygon[order], distance[order], inside[order]
    following = np.roll(inside, -1)
    entries, exits = np.flatnonzero(~inside & following), np.flatnonzero(inside & ~following)

    def crossing(k: np.integer) -> np.ndarray:
        after = (k + 1) % count
        return polygon[k] + (polygon[after] - polygon[k]) * (distance[k] / (distance[k] - distance[after]))

    chains = [np.vstack([crossing(i), polygon[i + 1 : j + 1], crossing(j)]) for i, j in zip(entries, exits)]
    # Ends 2c and 2c + 1 are the entry and the exit of chain c; `partner` joins ends that are neighbours on the border.
    ends = np.array([end[1 - axis] for chain in chains for end in (chain[0], chain[-1])])
    ranked = np.argsort(ends, kind="stable")
    partner = {int(a): int(b) for pair in ranked.reshape(-1, 2) for a, b in (pair, pair[::-1])}
    return _join(chains, partner)


def _join(chains: list[np.ndarray], partner: dict[int, int]) -> list[np.ndarray]:
    """Links chains at paired ends into closed polygons and drops those without area."""
    polygons, left = [], set(range(len(chains)))
    while left:
        end = 2 * min(left)
        ring = []
        while end // 2 in left:
            left.remove(end // 2)
            chain = chains[end // 2]
            ring.append(chain if end % 2 == 0 else chain[::-1])
            end = partner[end ^ 1]
        polygon = np.concatenate(ring)
        x, y = polygon.T
        area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
        if len(polygon) >= 3 and area > 1e-9:
            polygons.append(polygon)
    return polygons
