"""A bicycle, alone or under a rider."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from densekit.streets.sprites.mesh import heading_axes
from densekit.streets.world import Canvas, Colour

# Points in the plane of the frame: (forward, up), metres.
REAR, FRONT, RADIUS = (-0.52, 0.34), (0.54, 0.34), 0.34
CRANK, SADDLE, STEM, GRIP = (-0.08, 0.30), (-0.24, 0.92), (0.40, 0.86), (0.36, 1.04)
GRIP_HALF_WIDTH = 0.26
_TUBES = ((CRANK, SADDLE), (CRANK, STEM), ((-0.22, 0.80), (0.39, 0.80)), (CRANK, REAR), ((-0.20, 0.78), REAR))
_TYRE: Colour = (38, 36, 36)
_METAL: Colour = (135, 135, 135)
_SPOKES: Colour = (120, 118, 116)
_ANGLES = np.arange(28) * 2 * np.pi / 28


@dataclass(frozen=True)
class Bicycle:
    """A bicycle; ``basket`` and ``box`` are things carried before and behind."""

    paint: Colour
    basket: bool
    box: bool

    size = (1.75, 0.55, 1.1)

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Bicycle":
        paints = (
            (60, 50, 190),
            (170, 90, 40),
            (70, 130, 60),
            (50, 50, 52),
            (60, 180, 225),
            (190, 190, 190),
            (150, 70, 130),
        )
        return cls(paints[int(rng.integers(len(paints)))], bool(rng.random() < 0.3), bool(rng.random() < 0.2))

    def draw(self, canvas: Canvas, position: np.ndarray, yaw: float, label: int) -> None:
        axes, depth = heading_axes(yaw), float(position[2])
        scale, light = canvas.camera.scale(depth), canvas.light.level

        def flat(points: np.ndarray) -> np.ndarray:
            return canvas.camera.project(np.asarray(points, dtype=np.float64) @ axes + position)

        def line(points: list[tuple[float, float, float]], metres: float, colour: Colour) -> None:
            canvas.stroke(flat(np.array(points)), metres * scale, np.multiply(colour, light), label, depth)

        for hub in (REAR, FRONT):
            rim = [hub[0] + RADIUS * np.cos(_ANGLES), np.zeros(len(_ANGLES)), hub[1] + RADIUS * np.sin(_ANGLES)]
            ring = flat(np.stack(rim, axis=-1))
            canvas.veil(ring, np.multiply(_SPOKES, light), label, depth, opacity=0.3)
            canvas.stroke(ring, 0.055 * scale, np.multiply(_TYRE, light), label, depth, closed=True)
            line([(hub[0], -0.025, hub[1] - RADIUS), (hub[0], -0.025, hub[1] + RADIUS)], 0.07, _TYRE)
        triangle = flat(np.array([(CRANK[0], 0, CRANK[1]), (SADDLE[0], 0, 0.8), (STEM[0], 0, 0.8)]))
        canvas.veil(triangle, np.multiply(self.paint, light), label, depth, opacity=0.2)
        for (f0, u0), (f1, u1) in _TUBES:
            line([(f0, 0, u0), (f1, 0, u1)], 0.055, self.paint)
        line([(FRONT[0], 0, FRONT[1]), (STEM[0], 0, STEM[1]), (GRIP[0], 0, GRIP[1])], 0.055, _METAL)
        line([(GRIP[0], -GRIP_HALF_WIDTH, GRIP[1]), (GRIP[0], GRIP_HALF_WIDTH, GRIP[1])], 0.05, _TYRE)
        line([(SADDLE[0] - 0.14, 0, SADDLE[1]), (SADDLE[0] + 0.10, 0, SADDLE[1])], 0.09, _TYRE)
        line([(SADDLE[0] - 0.1, -0.08, SADDLE[1]), (SADDLE[0] - 0.1, 0.08, SADDLE[1])], 0.08, _TYRE)
        canvas.disc(flat(np.array([CRANK[0], 0, CRANK[1]])), 0.09 * scale, np.multiply(_METAL, light), label, depth)
        if self.basket:
            self._crate(canvas, flat, (0.5, 0.78), (0.84, 1.06), (95, 130, 160), label, depth)
        if self.box:
            self._crate(canvas, flat, (-0.72, -0.36), (0.78, 1.02), (60, 70, 90), label, depth)

    @staticmethod
    def _crate(
        canvas: Canvas,
        flat: Callable[[np.ndarray], np.ndarray],
        forwards: tuple[float, float],
        ups: tuple[float, float],
        colour: Colour,
        label: int,
        depth: float,
    ) -> None:
        corners = np.array([(f, s * 0.17, u) for f in forwards for s in (-1, 1) for u in ups])
        hull = cv2.convexHull(flat(corners).astype(np.float32)).reshape(-1, 2)
        canvas.convex(hull, np.multiply(colour, canvas.light.level), label, depth)
