"""Transforms that change colours and leave coordinates and label maps as they are."""

from collections.abc import Callable
from typing import Any

import numpy as np
from fvcore.transforms.transform import NoOpTransform, Transform
from PIL import Image


class ColorTransform(Transform):
    """Applies a function to the image."""

    def __init__(self, op: Callable[[Any], Any]) -> None:
        """Keeps the function.

        Args:
            op: From an (H, W, C) array to another of the same height and width.
        """
        super().__init__()
        if not callable(op):
            raise ValueError(f"ColorTransform needs a function of the image, not {op!r}.")
        self.op = op

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self.op(img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def inverse(self) -> Transform:
        """Returns no change: the inverse is about geometry only."""
        return NoOpTransform()


class PILColorTransform(ColorTransform):
    """Applies a function of a PIL image, such as ``PIL.ImageOps.autocontrast``."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.asarray(self.op(Image.fromarray(img)))
