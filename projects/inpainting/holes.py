"""Holes drawn at random: free-form strokes, rectangles, and irregular blobs.

A hole is a bool array (H, W), True in the hole. Every function draws from the generator it is given and nothing else,
so that a seed means one hole.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

# Strokes, in shares of the picture's mean side: the algorithm of "Free-Form Image Inpainting with Gated Convolution"
# (arXiv 1806.03589), appendix, where pictures have 256 pixels: up to 40 wide and, between two corners, 100 long.
_WIDEST, _LONGEST = 40 / 256, 100 / 256
_MOST_CORNERS = 12
_TURN, _SPREAD = 2 * math.pi / 5, 2 * math.pi / 15  # mean turn at a corner and how far it varies
_MOST_PARTS = 1000  # of one hole: by then any share that is below 1 is reached


def draw_strokes(size: tuple[int, int], area: float, generator: np.random.Generator) -> np.ndarray:
    """Zigzag lines of a thick round brush, as many as it takes to cover a share ``area`` of the picture."""
    canvas = np.zeros(size, np.uint8)
    for _ in range(_MOST_PARTS):
        if canvas.mean() >= area:
            break
        _stroke(canvas, generator)
    return canvas.astype(bool)


def _stroke(canvas: np.ndarray, generator: np.random.Generator) -> None:
    height, width = canvas.shape
    side = (height + width) / 2
    x, y = generator.uniform(0, width), generator.uniform(0, height)
    brush = max(1, round(generator.uniform(0.3, 1) * _WIDEST * side))
    base = generator.uniform(0, 2 * math.pi)
    for corner in range(int(generator.integers(4, _MOST_CORNERS + 1))):
        turn = generator.uniform(_TURN - _SPREAD, _TURN + _SPREAD)
        angle = base + (math.pi - turn if corner % 2 else turn)
        length = generator.uniform(0.1, 1) * _LONGEST * side
        end = (min(max(x + length * math.cos(angle), 0), width), min(max(y + length * math.sin(angle), 0), height))
        cv2.line(canvas, (round(x), round(y)), (round(end[0]), round(end[1])), 1, brush)  # its ends are round
        x, y = end


def draw_rectangles(size: tuple[int, int], area: float, generator: np.random.Generator) -> np.ndarray:
    """One rectangle that covers a share ``area`` of the picture, up to half again as high as wide or wide as high."""
    height, width = size
    ratio = math.exp(generator.uniform(-math.log(1.5), math.log(1.5)))
    h = min(height, max(1, round(math.sqrt(area * height * width * ratio))))
    w = min(width, max(1, round(area * height * width / h)))
    top, left = int(generator.integers(0, height - h + 1)), int(generator.integers(0, width - w + 1))
    hole = np.zeros(size, bool)
    hole[top : top + h, left : left + w] = True
    return hole


def draw_blobs(size: tuple[int, int], area: float, generator: np.random.Generator) -> np.ndarray:
    """Irregular islands: the highest share ``area`` of smooth noise."""
    blur = max(1.0, sum(size) / 2 * generator.uniform(0.02, 0.08))
    noise = cv2.GaussianBlur(generator.standard_normal(size).astype(np.float32), (0, 0), blur)
    count = min(max(1, round(area * noise.size)), noise.size)
    return noise >= np.partition(noise.ravel(), noise.size - count)[noise.size - count]


# INPUT.HOLES.KINDS
KINDS: dict[str, Callable[[tuple[int, int], float, np.random.Generator], np.ndarray]] = {
    "strokes": draw_strokes,
    "rectangles": draw_rectangles,
    "blobs": draw_blobs,
}
