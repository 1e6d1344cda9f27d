"""A palette of colours that stay apart, for any number of objects.

The hue advances by the golden ratio of the circle, so that no two of the next few colours are close, and lightness
alternates between three levels. Both are steps in OKLCH (Ottosson, "A perceptual color space for image processing",
2020), where equal distances look equal.
"""

import random
from functools import lru_cache

import numpy as np

_COUNT = 80
_GOLDEN_RATIO = (5**0.5 - 1) / 2
_FIRST_HUE = 0.70  # blue, in turns
_LIGHTNESS = (0.66, 0.82, 0.74)
_CHROMA = (0.19, 0.15, 0.17)

# OKLAB to cone responses (to be cubed), and those to linear sRGB.
_LAB_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.291485548]]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.707614701],
    ]
)


def colormap(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """Returns the palette.

    Args:
        rgb: Channels in order RGB, else BGR.
        maximum: The value of full intensity, 255 or 1.

    Returns:
        (80, 3) float32.

    Raises:
        ValueError: Another maximum.
    """
    if maximum not in (1, 255):
        raise ValueError(f"maximum={maximum} must be 255 or 1.")
    colors = _palette() if rgb else _palette()[:, ::-1]
    return np.ascontiguousarray(colors) * np.float32(maximum)


def random_color(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """Returns one colour of the palette at random, (3,) float32; arguments as in ``colormap``."""
    return random.choice(colormap(rgb, maximum))


@lru_cache(maxsize=1)
def _palette() -> np.ndarray:
    """RGB in 0 .. 1, (80, 3) float32."""
    step = np.arange(_COUNT)
    hue = 2 * np.pi * ((_FIRST_HUE + step * _GOLDEN_RATIO) % 1)
    lightness, chroma = np.take(_LIGHTNESS, step % 3), np.take(_CHROMA, step % 3)
    lab = np.stack((lightness, chroma * np.cos(hue), chroma * np.sin(hue)), axis=1)
    linear = ((lab @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T).clip(0, 1)
    gamma = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return gamma.astype(np.float32)
