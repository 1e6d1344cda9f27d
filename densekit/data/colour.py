"""The colour distortions with which SSD is trained (https://arxiv.org/abs/1512.02325, section 2.2)."""

from collections.abc import Callable

import cv2
import numpy as np

from densekit.d2.data import transforms as T

# The published ranges: grey levels, factors, factors, and half degrees as OpenCV counts hues.
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 32.0, (0.5, 1.5), (0.5, 1.5), 18
_HUES = 180

Step = Callable[[np.ndarray], np.ndarray]


class SSDColours(T.Augmentation):
    """Changes brightness, contrast, saturation and hue, each with a chance of one half; contrast first or last.

    Args:
        img_format: of the images, "BGR" or "RGB".

    Raises:
        ValueError: another format.
    """

    def __init__(self, img_format: str) -> None:
        super().__init__()
        if img_format not in ("BGR", "RGB"):
            raise ValueError(f"INPUT.COLOR_AUG_SSD needs INPUT.FORMAT BGR or RGB, not {img_format!r}.")
        self.img_format = img_format

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draws what is done to an image (H, W, 3) uint8."""
        brightness = _linear(1.0, np.random.uniform(-_BRIGHTNESS, _BRIGHTNESS))
        contrast = _linear(np.random.uniform(*_CONTRAST), 0.0)
        in_hsv = [_saturation(np.random.uniform(*_SATURATION)), _hue(np.random.randint(-_HUE, _HUE + 1))]
        order = [contrast, *in_hsv] if np.random.rand() < 0.5 else [*in_hsv, contrast]
        steps = [step for step in (brightness, *order) if np.random.rand() < 0.5]
        return T.ColorTransform(lambda img: self._apply(img, steps))

    def _apply(self, image: np.ndarray, steps: list[Step]) -> np.ndarray:
        flip = slice(None, None, -1) if self.img_format == "RGB" else slice(None)
        image = np.ascontiguousarray(image[:, :, flip])
        for step in steps:
            image = step(image)
        return np.ascontiguousarray(image[:, :, flip])


def _linear(factor: float, offset: float) -> Step:
    return lambda image: _rounded(image.astype(np.float32) * factor + offset)


def _saturation(factor: float) -> Step:
    return lambda image: _in_hsv(image, 1, lambda channel: _rounded(channel.astype(np.float32) * factor))


def _hue(shift: int) -> Step:
    return lambda image: _in_hsv(image, 0, lambda channel: ((channel.astype(int) + shift) % _HUES).astype(np.uint8))


def _in_hsv(image: np.ndarray, channel: int, change: Step) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    hsv[:, :, channel] = change(hsv[:, :, channel])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)
