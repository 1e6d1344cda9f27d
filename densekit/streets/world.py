"""The camera, the light and the canvas of a scene.

World frame, metres: x to the right, y up (0 = road surface), z forward from the camera, which stands at (0, eye, 0)
and looks along z. Canvas frame: continuous drawing pixels, x right, y down, a pixel ``i`` covers ``[i, i + 1)``.
Colours are BGR, 0 to 255.

Everything is painted far to near, so the last paint at a pixel is the nearest surface. The canvas keeps the label of
each pixel in the same array as its colour: one call paints both, and they can never disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[float, float, float]

SUPERSAMPLING = 2  # the canvas is so many times larger than the picture, on each axis
_SHIFT = 4  # sub-pixel bits of OpenCV's drawing functions
_NEAR = 0.8  # metres; nothing nearer is projected


def pick_colour(rng: np.random.Generator, colours: tuple[Colour, ...], spread: float = 6.0) -> Colour:
    """One of the colours, varied a little by a deviation of ``spread``."""
    shift = rng.normal(0, spread) + rng.normal(0, 0.3 * spread, 3)  # brightness varies more than hue
    b, g, r = (np.array(colours[int(rng.integers(len(colours)))]) + shift).clip(20, 240)
    return (b, g, r)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without roll whose pitch is a shift of the horizon (so verticals stay vertical)."""

    width: int  # drawing pixels
    height: int
    focal: float  # drawing pixels
    centre: float  # column of the vanishing point
    horizon: float  # row of the vanishing point
    eye: float  # height above the road, metres

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) to canvas points (..., 2); depths below the near plane are raised to it."""
        points = np.asarray(points, dtype=np.float64)
        scale = self.focal / np.maximum(points[..., 2], _NEAR)
        return np.stack(
            [self.centre + points[..., 0] * scale, self.horizon + (self.eye - points[..., 1]) * scale], axis=-1
        )

    def scale(self, depth: float) -> float:
        """Drawing pixels per metre at a depth."""
        return self.focal / max(depth, _NEAR)

    @property
    def nearest_ground(self) -> float:
        """Depth at which the ground enters the picture, at its lower edge."""
        return self.focal * self.eye / (self.height - self.horizon)

    def span(self, depth: float) -> tuple[float, float]:
        """World x of the picture's left and right edge at a depth."""
        return -self.centre * depth / self.focal, (self.width - self.centre) * depth / self.focal


@dataclass(frozen=True)
class Light:
    """Sun, sky and air."""

    sun: np.ndarray  # (3,) unit vector towards the sun
    ambient: float  # light of a surface turned away from the sun
    direct: float  # what the sun adds at normal incidence; 0 = overcast
    haze: np.ndarray  # (3,) colour of the air at the horizon
    haze_range: float  # metres after which about two thirds of a colour is haze

    def shade(self, normals: np.ndarray) -> np.ndarray:
        """Brightness factors of surfaces with unit normals (..., 3)."""
        return self.ambient + self.direct * np.maximum(np.asarray(normals) @ self.sun, 0.0)

    @property
    def level(self) -> float:
        """Brightness of things that are round rather than flat: the mean over directions, roughly."""
        return self.ambient + 0.5 * self.direct

    def tint(self, colour: np.ndarray | Colour, depth: float) -> np.ndarray:
        """A colour as seen through ``depth`` metres of air."""
        kept = float(np.exp(-depth / self.haze_range))
        return np.asarray(colour, dtype=np.float64) * kept + self.haze * (1 - kept)


class Canvas:
    """The picture under construction: label, blue, green and red per drawing pixel.

    With ``labels_only`` there is only the label plane, which is enough to find out what hides what and is fast;
    painters may skip decoration then, but must cover the same pixels.
    """

    def __init__(self, camera: Camera, light: Light, *, labels_only: bool = False) -> None:
        self.camera = camera
        self.light = light
        self.labels_only = labels_only
        self.pixels = np.zeros((camera.height, camera.width, 1 if labels_only else 4), dtype=np.uint8)

    @property
    def labels(self) -> np.ndarray:
        """The label plane (H, W) uint8, a view."""
        return self.pixels[..., 0]

    def _values(self, colours: np.ndarray | Colour, label: int, depth: float) -> list[list[float]]:
        """Returns the values to paint, one row per colour (..., 3)."""
        seen = np.minimum(np.maximum(self.light.tint(colours, depth), 0.0), 255.0).reshape(-1, 3)
        return [[label, *row] for row in seen.tolist()]

    def _fixed(self, points: np.ndarray) -> np.ndarray:
        # OpenCV puts integer coordinates at pixel centres, and cannot count beyond a limit.
        limit = 8 * max(self.camera.width, self.camera.height)
        near = np.minimum(np.maximum(points, -limit), limit)
        return np.rint((near - 0.5) * (1 << _SHIFT)).astype(np.int32, order="C")

    def convex(self, points: np.ndarray, colour: np.ndarray | Colour, label: int, depth: float) -> None:
        """Fills a convex polygon (N, 2)."""
        self.convexes(points[None], np.asarray(colour)[None], label, depth)

    def convexes(self, points: np.ndarray, colours: np.ndarray, label: int, depth: float) -> None:
        """Fills convex polygons (M, N, 2), each in its colour (M, 3), in order."""
        for corners, value in zip(self._fixed(points), self._values(colours, label, depth)):
            cv2.fillConvexPoly(self.pixels, corners, value, cv2.LINE_8, _SHIFT)

    def disc(self, centre: np.ndarray, radius: float, colour: np.ndarray | Colour, label: int, depth: float) -> None:
        """Fills a disc; ``radius`` in drawing pixels."""
        self.discs(np.asarray(centre)[None], radius, np.asarray(colour)[None], label, depth)

    def discs(self, centres: np.ndarray, radius: float, colours: np.ndarray, label: int, depth: float) -> None:
        """Fills discs of one radius in drawing pixels: centres (N, 2), colours (N, 3), in order."""
        size = max(int(radius * (1 << _SHIFT)), 1)
        for centre, value in zip(self._fixed(centres).tolist(), self._values(colours, label, depth)):
            cv2.circle(self.pixels, centre, size, value, -1, cv2.LINE_8, _SHIFT)

    def stroke(
        self,
        points: np.ndarray,
        width: float,
        colour: np.ndarray | Colour,
        label: int,
        depth: float,
        closed: bool = False,
    ) -> None:
        """Draws a line through points (N, 2), at least one drawing pixel wide."""
        value = self._values(colour, label, depth)[0]
        cv2.polylines(self.pixels, [self._fixed(points)], closed, value, max(round(width), 1), cv2.LINE_8, _SHIFT)

    def veil(self, points: np.ndarray, colour: np.ndarray | Colour, label: int, depth: float, opacity: float) -> None:
        """Labels a polygon (N, 2) fully but covers what lies behind it only in part, as spokes do."""
        low = np.floor(points.min(axis=0)).astype(int).clip(0)
        high = (np.ceil(points.max(axis=0)).astype(int) + 1).clip(0, [self.camera.width, self.camera.height])
        if (high <= low).any():
            return
        region = self.pixels[low[1] : high[1], low[0] : high[0]]
        inside = np.zeros(region.shape[:2], dtype=np.uint8)
        cv2.fillPoly(inside, [self._fixed(points - low)], 1, cv2.LINE_8, _SHIFT)
        where = inside.astype(bool)
        if not self.labels_only:
            over = self.light.tint(colour, depth)
            mixed = region[where][:, 1:] * (1 - opacity) + over * opacity
            region[where, 1:] = mixed.astype(np.uint8)
        region[where, 0] = label


_CIRCLE = np.stack([np.cos(np.arange(12) * np.pi / 6), np.sin(np.arange(12) * np.pi / 6)], axis=-1)


def hull_of_discs(centres: np.ndarray, radii: Sequence[float]) -> np.ndarray:
    """The convex hull (M, 2) of discs with centres (N, 2), each approximated by a dodecagon."""
    points = np.asarray(centres)[:, None, :] + np.asarray(radii)[:, None, None] * _CIRCLE
    return cv2.convexHull(points.reshape(-1, 2).astype(np.float32)).reshape(-1, 2)
