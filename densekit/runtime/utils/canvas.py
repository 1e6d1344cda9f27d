"""An image to draw on: antialiased lines, discs, masks and text blended into RGB pixels.

Positions are continuous image pixels (the top left pixel covers 0 .. 1); the canvas may be larger or smaller than the
image by a factor. Everything is drawn as a coverage map of 0 .. 255 in the smallest rectangle that holds it, and then
blended: opacity, antialiasing and speed at once.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from PIL import Image, ImageColor, ImageDraw, ImageFont

_SUBPIXEL_BITS = 4  # OpenCV draws at fixed-point positions
_LETTERS = {
    "b": "blue",
    "g": "green",
    "r": "red",
    "c": "cyan",
    "m": "magenta",
    "y": "yellow",
    "k": "black",
    "w": "white",
}

Color = Any  # RGB in 0 .. 1, a CSS name or hex code, or one of the letters above


def to_rgb(color: Color) -> np.ndarray:
    """RGB in 0 .. 1 of a colour.

    Raises:
        ValueError: An unknown name, or not three values in 0 .. 1.
    """
    if isinstance(color, str):
        return np.array(ImageColor.getrgb(_LETTERS.get(color, color))[:3], dtype=np.float32) / 255
    values = np.asarray(color, dtype=np.float32)
    if values.shape not in ((3,), (4,)) or values.min() < 0 or values.max() > 1:
        raise ValueError(f"a colour is a name or three values in 0 .. 1; got {color!r}.")
    return values[:3]


class VisImage:
    """A picture in the making, and the result.

    Attributes:
        scale: Canvas pixels per image pixel.
        width: Of the image, pixels.
        height: Of the image, pixels.
    """

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        """Starts from an image.

        Args:
            img: (H, W, 3) RGB in 0 .. 255, copied.
            scale: Factor on the size of the result.
        """
        self.scale = scale
        self.height, self.width = img.shape[:2]
        size = (max(round(self.width * scale), 1), max(round(self.height * scale), 1))
        pixels: np.ndarray = np.asarray(img).clip(0, 255).astype(np.uint8)
        if size != (self.width, self.height):
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
        self._pixels = np.array(pixels, order="C")

    def get_image(self) -> np.ndarray:
        """Returns the picture, (H * scale, W * scale, 3) RGB uint8."""
        return self._pixels

    def save(self, filepath: str | os.PathLike) -> None:
        """Writes the picture; the suffix gives the format. An interrupted write leaves no half file.

        Raises:
            ValueError: The suffix is no format.
        """
        path = Path(filepath)
        kind = Image.registered_extensions().get(path.suffix.lower())
        if kind is None:
            raise ValueError(f"{path} names no format for pictures; end it in .png or .jpg.")
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(unfinished, "wb") as file:
                Image.fromarray(self._pixels).save(file, format=kind)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the canvas."""
        return self._pixels.shape[0], self._pixels.shape[1]

    def blend(self, coverage: np.ndarray, color: Color, alpha: float = 1.0, corner: tuple[int, int] = (0, 0)) -> None:
        """Mixes a colour in.

        Args:
            coverage: (h, w) uint8.
            color: The colour.
            alpha: Its opacity where the coverage is 255.
            corner: (x, y) of the coverage map on the canvas; what lies outside is cut off.
        """
        x, y = corner
        height, width = self.shape
        coverage = coverage[max(-y, 0) : max(height - y, 0), max(-x, 0) : max(width - x, 0)]
        x, y = max(x, 0), max(y, 0)
        region = self._pixels[y : y + coverage.shape[0], x : x + coverage.shape[1]]
        weight = coverage[..., None] * np.float32(alpha / 255)
        region[:] = region + (to_rgb(color) * 255 - region) * weight + 0.5

    def grey_out(self, keep: np.ndarray) -> None:
        """Takes the colour away everywhere but in a canvas mask, (h, w)."""
        grey = self._pixels.astype(np.float32).mean(axis=2, keepdims=True)
        self._pixels = np.where(keep[..., None] > 0, self._pixels, grey.astype(np.uint8))

    def bitmap(self, mask: np.ndarray) -> np.ndarray:
        """Brings an (H, W) image mask onto the canvas: uint8, 0 or 255.

        Raises:
            ValueError: The mask has another size than the image.
        """
        if mask.shape != (self.height, self.width):
            raise ValueError(f"a mask of {mask.shape} does not fit an image of {(self.height, self.width)} pixels.")
        coverage = mask.astype(bool).astype(np.uint8) * 255
        if self.scale == 1.0:
            return coverage
        resized = cv2.resize(coverage, self.shape[::-1], interpolation=cv2.INTER_LINEAR)
        return np.where(resized >= 128, np.uint8(255), np.uint8(0))

    def polygons(self, polygons: Sequence[Any]) -> np.ndarray:
        """Fills the union of flat polygons x0, y0, ... in image pixels: a canvas mask, uint8, 0 or 255."""
        height, width = self.shape
        scaled = [np.asarray(polygon, dtype=np.float64).reshape(-1) * self.scale for polygon in polygons]
        scaled = [polygon for polygon in scaled if len(polygon) >= 6]
        if not scaled:
            return np.zeros(self.shape, np.uint8)
        # pycocotools, since OpenCV would add a pixel all around.
        runs = mask_util.merge(mask_util.frPyObjects(scaled, height, width))
        return np.ascontiguousarray(mask_util.decode(runs)) * np.uint8(255)

    def fill(self, mask: np.ndarray, color: Color, alpha: float) -> None:
        """Tints a canvas mask."""
        x, y, width, height = cv2.boundingRect(mask)
        self.blend(mask[y : y + height, x : x + width], color, alpha, (x, y))

    def outline(self, mask: np.ndarray, color: Color, thickness: int) -> None:
        """Draws the contours of a canvas mask, holes included."""
        x, y, width, height = cv2.boundingRect(mask)
        if width == 0:
            return
        pad = thickness + 1
        inside = np.pad(mask[y : y + height, x : x + width], pad)
        contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        coverage = np.zeros_like(inside)
        cv2.drawContours(coverage, contours, -1, (255,), thickness, cv2.LINE_AA)
        self.blend(coverage, color, corner=(x - pad, y - pad))

    def lines(self, points: np.ndarray, color: Color, thickness: int, alpha: float = 1.0) -> None:
        """Draws a line through (n, 2) points in image pixels, blunt where it ends."""
        corner, size = self._frame(points, thickness)
        coverage = np.zeros(size[::-1], np.uint8)
        fixed = self._fixed_point(points, corner)
        cv2.polylines(coverage, [fixed], False, (255,), thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
        self.blend(coverage, color, alpha, corner)

    def rectangle(self, box: Sequence[float], color: Color, thickness: int, alpha: float = 1.0) -> None:
        """Draws the border of an xyxy box, on whole canvas pixels so that it is sharp."""
        x0, y0, x1, y1 = (round(float(value) * self.scale) for value in box)
        x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
        coverage = np.full((y1 - y0 + thickness, x1 - x0 + thickness), 255, np.uint8)
        coverage[thickness : y1 - y0, thickness : x1 - x0] = 0
        self.blend(coverage, color, alpha, (x0 - thickness // 2, y0 - thickness // 2))

    def disc(self, center: Sequence[float], radius: float, color: Color) -> None:
        """Draws a filled circle around a point in image pixels; the radius is in canvas pixels."""
        points = np.asarray(center, dtype=np.float64).reshape(1, 2)
        corner, size = self._frame(points, 2 * round(radius) + 2)
        coverage = np.zeros(size[::-1], np.uint8)
        ((x, y),) = self._fixed_point(points, corner).tolist()
        inner = max(radius - 0.5, 0)  # OpenCV's antialiased border lies outside
        cv2.circle(coverage, (x, y), round(inner * 2**_SUBPIXEL_BITS), (255,), -1, cv2.LINE_AA, _SUBPIXEL_BITS)
        self.blend(coverage, color, corner=corner)

    def label(self, text: str, corner: tuple[int, int], size: int, color: Color, background: Color) -> None:
        """Writes text on a plate whose top left corner is a canvas pixel; see ``label_size``."""
        width, height = label_size(text, size)
        plate = Image.new("L", (width, height))
        ImageDraw.Draw(plate).rounded_rectangle((0, 0, width - 1, height - 1), radius=size // 4, fill=255)
        self.blend(np.asarray(plate), background, 0.85, corner)
        ink = Image.new("L", (width, height))
        ImageDraw.Draw(ink).text((width / 2, height / 2), text, fill=255, font=_font(size), anchor="mm")
        self.blend(np.asarray(ink), color, 1.0, corner)

    def _frame(self, points: np.ndarray, margin: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Corner and size, (x, y) each, of the canvas rectangle around points in image pixels."""
        height, width = self.shape
        limit = [width, height]
        low = np.floor(points.min(axis=0) * self.scale - margin - 1).clip(-margin, limit).astype(int)
        high = np.ceil(points.max(axis=0) * self.scale + margin + 1).clip(0, np.add(limit, margin)).astype(int)
        span = np.maximum(high - low, 1)
        return (int(low[0]), int(low[1])), (int(span[0]), int(span[1]))

    def _fixed_point(self, points: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
        """Image points for OpenCV, whose whole numbers are pixel centres."""
        return np.rint((points * self.scale - 0.5 - np.array(corner)) * 2**_SUBPIXEL_BITS).astype(np.int32)


def label_size(text: str, size: int) -> tuple[int, int]:
    """(width, height) of a label's plate in canvas pixels."""
    return int(_font(size).getlength(text)) + size // 2 + 2, round(size * 1.35)


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: it has the letters of most languages."""
    import matplotlib  # here, since it is slow to import and only labels need it

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
