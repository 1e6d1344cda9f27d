"""Crops of persons for training: at random scales, turned, mirrored, sometimes half a body (arXiv 1902.09212, 4.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .geometry import box_regions, crop, fit_shape, move, region_matrix

_HALF_BODY_PADDING = 1.5
_HALF_BODY_FROM = 8  # only where more keypoints than this are labelled


@dataclass(frozen=True)
class View:
    """Crop of a person, drawn at random in training.

    Attributes:
        output: Width and height of the crop.
        pairs: Numbers of keypoints that a mirror exchanges.
        upper_body: Numbers of the keypoints of the upper half.
        scale: Largest relative change of the region's size; its deviation is as large.
        rotation: Deviation of the angle in degrees; the largest is twice that.
        rotation_probability: Of turning at all.
        mirror_probability: Of mirroring.
        half_body_probability: Of cropping the upper or lower half of a person.
    """

    output: tuple[int, int]
    pairs: Sequence[Sequence[int]]
    upper_body: Sequence[int] = ()
    scale: float = 0.0
    rotation: float = 0.0
    rotation_probability: float = 0.0
    mirror_probability: float = 0.0
    half_body_probability: float = 0.0

    def __call__(self, image: np.ndarray, box: np.ndarray, keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws a view.

        Args:
            image: (H, W, C).
            box: (4,) xywh, image pixels.
            keypoints: (K, 3) x, y as pixel indices, visibility.

        Returns:
            The crop (output height, output width, C), and the keypoints (K, 3) in its pixel indices.
        """
        region = self._region(box, keypoints)
        region[2:] *= np.clip(np.random.randn() * self.scale + 1, 1 - self.scale, 1 + self.scale)
        angle = 0.0
        if np.random.rand() < self.rotation_probability:
            angle = float(np.clip(np.random.randn() * self.rotation, -2 * self.rotation, 2 * self.rotation))
        matrix = region_matrix(region, self.output, angle)
        pixels = crop(image, matrix, self.output)
        moved = np.concatenate([move(keypoints[:, :2], matrix), keypoints[:, 2:]], axis=1)
        if np.random.rand() < self.mirror_probability:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
            moved[:, 0] = self.output[0] - 1 - moved[:, 0]
            for a, b in self.pairs:
                moved[[a, b]] = moved[[b, a]]
        return pixels, moved

    def _region(self, box: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
        labelled = keypoints[:, 2] > 0
        if labelled.sum() > _HALF_BODY_FROM and np.random.rand() < self.half_body_probability:
            upper = np.isin(np.arange(len(keypoints)), self.upper_body) & labelled
            lower = labelled & ~upper
            halves = [upper, lower] if np.random.rand() < 0.5 else [lower, upper]
            half = next((part for part in halves if part.sum() > 2), None)
            if half is not None:
                points = keypoints[half, :2]
                size = fit_shape((points.max(axis=0) - points.min(axis=0)).clip(min=1)[None], self.output)[0]
                return np.concatenate([points.mean(axis=0), _HALF_BODY_PADDING * size])
        return box_regions(box, self.output)[0]


def plain(view: View) -> View:
    """The same crops without anything random."""
    return View(output=view.output, pairs=view.pairs)
