"""Pictures with boxes that are fitted into squares, put together, warped and coloured. arXiv 2209.02976, section 3.1.

numpy and OpenCV. Shapes: (H, W, 3) uint8 pictures; N boxes (x0, y0, x1, y1), pixels. Functions leave their arguments as
they are. What is random is drawn from Python's ``random``.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

GREY = 114
_LEAST_SIDE = 2.0  # pixels of a box that is kept after a warp
_LEAST_SHARE = 0.1  # of a box that is seen after a warp; less is not recognisable
_MOST_ELONGATED = 20.0  # long side of a kept box by its short side
_MIXING = 32.0  # of the Beta distribution of mixup's shares: near one half, so that objects of both are to be seen


@dataclass(frozen=True)
class Picture:
    """A picture and its objects.

    Attributes:
        pixels: (H, W, 3) uint8.
        boxes: (N, 4) float64, xyxy, pixels.
        classes: (N,) int64.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def chosen(self, boxes: np.ndarray, keep: np.ndarray, pixels: np.ndarray) -> "Picture":
        """The picture with other pixels and boxes, without the objects that are not to be kept (N,)."""
        return Picture(pixels, boxes[keep], self.classes[keep])


class Border(NamedTuple):
    """Grey pixels on the sides of a picture."""

    left: int
    right: int
    top: int
    bottom: int


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes (H, W, 3) to (height, width): averages where it shrinks, else bilinear."""
    if pixels.shape[:2] == size:
        return pixels
    kind = cv2.INTER_AREA if size[0] < pixels.shape[0] or size[1] < pixels.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(pixels, size[::-1], interpolation=kind)


def size_by_long_side(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) of a picture whose longer side becomes ``side``; fractions are cut off, as in published tests."""
    ratio = side / max(size)
    return max(1, int(size[0] * ratio)), max(1, int(size[1] * ratio))


def centred_border(size: tuple[int, int], frame: tuple[int, int], multiple: int = 0) -> Border:
    """The border of a picture in the middle of a frame, both (height, width).

    Args:
        size: of the picture, not larger than the frame.
        frame: of the result.
        multiple: the frame is made as small as multiples of this let it be; 0: it stays.
    """
    rest = [whole - part for whole, part in zip(frame, size)]
    if multiple:
        rest = [x % multiple for x in rest]
    # Of an odd number of pixels the first side gets the smaller half.
    (top, bottom), (left, right) = ((round(x / 2 - 0.1), round(x / 2 + 0.1)) for x in rest)
    return Border(left, right, top, bottom)


def bordered(pixels: np.ndarray, border: Border) -> np.ndarray:
    """Puts grey around (H, W, 3)."""
    left, right, top, bottom = border
    return cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(GREY,) * 3)


def letterbox(
    pixels: np.ndarray, frame: tuple[int, int], *, multiple: int = 0, enlarge: bool = True
) -> tuple[np.ndarray, float, Border]:
    """Fits (H, W, 3) into a frame (height, width) without changing its aspect ratio.

    Args:
        pixels: the picture.
        frame: of the result.
        multiple: see :func:`centred_border`.
        enlarge: whether a picture that is smaller than the frame is resized.

    Returns:
        The result, the ratio of the sides, and the border.
    """
    height, width = pixels.shape[:2]
    ratio = min(frame[0] / height, frame[1] / width)
    if not enlarge:
        ratio = min(ratio, 1.0)
    size = max(1, round(height * ratio)), max(1, round(width * ratio))
    if size != (height, width):
        pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)
    border = centred_border(size, frame, multiple)
    return bordered(pixels, border), ratio, border


def letterboxed(picture: Picture, side: int) -> Picture:
    """Fits a picture with its boxes into a square of ``side``."""
    pixels, _, border = letterbox(picture.pixels, (side, side))
    inner = side - border.top - border.bottom, side - border.left - border.right
    factors = np.tile((inner[1] / picture.size[1], inner[0] / picture.size[0]), 2)
    shift = np.array([border.left, border.top] * 2)
    return Picture(pixels, picture.boxes * factors + shift, picture.classes)


def mosaic(pictures: Sequence[Picture], side: int, centre: tuple[int, int]) -> Picture:
    """Puts four pictures around a point of a square of twice ``side``; what does not fit is cut off.

    Args:
        pictures: for the upper left, upper right, lower left and lower right.
        side: half of the side of the result; the pictures are resized to it before.
        centre: (y, x) where they meet.
    """
    whole = 2 * side
    canvas = np.full((whole, whole, 3), GREY, np.uint8)
    boxes = []
    for number, part in enumerate(pictures):
        height, width = part.size
        top = centre[0] - height if number < 2 else centre[0]
        left = centre[1] - width if number % 2 == 0 else centre[1]
        y0, y1 = max(top, 0), min(top + height, whole)
        x0, x1 = max(left, 0), min(left + width, whole)
        canvas[y0:y1, x0:x1] = part.pixels[y0 - top : y1 - top, x0 - left : x1 - left]
        boxes.append(_clipped(part.boxes + np.array([left, top, left, top]), (whole, whole)))
    return Picture(canvas, np.concatenate(boxes), np.concatenate([part.classes for part in pictures]))


def random_centre(side: int) -> tuple[int, int]:
    """A centre of :func:`mosaic`, which leaves each picture at least half of ``side`` in both directions."""
    return int(random.uniform(side / 2, 1.5 * side)), int(random.uniform(side / 2, 1.5 * side))


@dataclass(frozen=True)
class Warp:
    """A map of pictures: rotation, scale, shear, and where the middle of the picture goes.

    Attributes:
        angle: degrees, counter-clockwise.
        scale: of lengths.
        shear: of x and of y, degrees.
        middle: (x, y) of the result, as shares of its width and height, that the middle of the picture comes to.
    """

    angle: float
    scale: float
    shear: tuple[float, float]
    middle: tuple[float, float]

    def matrix(self, size: tuple[int, int], frame: tuple[int, int]) -> np.ndarray:
        """The (2, 3) matrix from a picture to a result of a frame, both (height, width)."""
        cos, sin = (self.scale * f(math.radians(self.angle)) for f in (math.cos, math.sin))
        turn = np.array([[cos, sin], [-sin, cos]])
        shear_x, shear_y = (math.tan(math.radians(x)) for x in self.shear)
        linear = np.array([[1.0, shear_x], [shear_y, 1.0]]) @ turn
        goal = np.array([self.middle[0] * frame[1], self.middle[1] * frame[0]])
        return np.column_stack([linear, goal - linear @ np.array([size[1] / 2, size[0] / 2])])

    def __call__(self, picture: Picture, frame: tuple[int, int]) -> Picture:
        """Warps a picture into a frame (height, width).

        A box becomes the smallest one around its four moved corners. Boxes of which little is left are dropped.
        """
        matrix = self.matrix(picture.size, frame)
        # The matrix holds for the numbers of pixels as well as for coordinates, as in published training: up to half a
        # pixel apart.
        pixels = cv2.warpAffine(picture.pixels, matrix, frame[::-1], borderValue=(GREY,) * 3)
        corners = picture.boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]] @ matrix[:, :2].T + matrix[:, 2]  # (N, 4, 2)
        boxes = _clipped(np.concatenate([corners.min(1), corners.max(1)], 1), frame)
        return picture.chosen(boxes, _worth_keeping(picture.boxes * self.scale, boxes), pixels)


@dataclass(frozen=True)
class WarpRange:
    """Ranges of :class:`Warp`.

    Attributes:
        degrees: largest angle.
        translate: largest distance of the middle from the result's, as a share of its sides.
        scale: largest difference of the scale from 1.
        shear: largest shear, degrees.
    """

    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0

    def draw(self, factor: float = 1.0) -> Warp:
        """A random warp whose scale is multiplied by ``factor``."""
        angle = random.uniform(-self.degrees, self.degrees)
        scale = random.uniform(1 - self.scale, 1 + self.scale) * factor
        shear = random.uniform(-self.shear, self.shear), random.uniform(-self.shear, self.shear)
        middle = [random.uniform(0.5 - self.translate, 0.5 + self.translate) for _ in "xy"]
        return Warp(angle, scale, shear, (middle[0], middle[1]))


def mixup(first: Picture, second: Picture, share: float) -> Picture:
    """Lays one picture over another of its size, ``share`` of the first, with the objects of both."""
    pixels = (first.pixels * share + second.pixels * (1 - share)).astype(np.uint8)
    boxes = np.concatenate([first.boxes, second.boxes])
    return Picture(pixels, boxes, np.concatenate([first.classes, second.classes]))


def random_share() -> float:
    """A share for :func:`mixup`."""
    return random.betavariate(_MIXING, _MIXING)


def coloured(pixels: np.ndarray, factors: Sequence[float], order: str = "BGR") -> np.ndarray:
    """Multiplies hue, saturation and value of (H, W, 3) by three factors; ``order`` is that of the channels."""
    to_hsv, back = (cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2BGR) if order == "BGR" else (cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB)
    values = np.arange(256)
    tables = np.stack(
        [
            values * factors[0] % 180,  # a circle of 180 steps in OpenCV
            np.clip(values * factors[1], 0, 255),
            np.clip(values * factors[2], 0, 255),
        ],
        axis=-1,
    ).astype(np.uint8)
    return cv2.cvtColor(cv2.LUT(cv2.cvtColor(pixels, to_hsv), tables[None]), back)


def random_factors(gains: Sequence[float]) -> list[float]:
    """Factors for :func:`coloured`, each up to its gain away from 1."""
    return [1 + random.uniform(-1, 1) * gain for gain in gains]


def mirrored(picture: Picture, *, vertical: bool = False) -> Picture:
    """Exchanges left and right, or above and below."""
    axis = int(vertical)
    boxes = picture.boxes.copy()
    length = picture.size[1 - axis]
    boxes[:, axis], boxes[:, axis + 2] = length - picture.boxes[:, axis + 2], length - picture.boxes[:, axis]
    return Picture(cv2.flip(picture.pixels, 0 if vertical else 1), boxes, picture.classes)


def _clipped(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return boxes.clip(0, np.array([size[1], size[0]] * 2))


def _worth_keeping(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Tells which of N boxes are still large enough, by their size before (scaled only) and after a warp, (N,) bool."""
    sides, old = after[:, 2:] - after[:, :2], before[:, 2:] - before[:, :2]
    shortest, longest = sides.min(1), sides.max(1)
    seen = sides.prod(1) > _LEAST_SHARE * old.prod(1)
    return (shortest > _LEAST_SIDE) & seen & (longest < _MOST_ELONGATED * np.maximum(shortest, 1e-9))
