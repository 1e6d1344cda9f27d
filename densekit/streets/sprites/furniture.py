"""Street furniture: lamp posts, traffic signs and traffic lights."""

from dataclasses import dataclass

import numpy as np

from densekit.streets.labels import LABELS
from densekit.streets.world import Canvas, Colour

_POLE, _SIGN, _LIGHT = LABELS["pole"].id, LABELS["traffic sign"].id, LABELS["traffic light"].id
_RED: Colour = (40, 36, 200)
_WHITE: Colour = (232, 232, 232)
_BLUE: Colour = (180, 90, 30)
_SIGNS = ("limit", "danger", "yield", "stop", "no entry", "direction", "crossing", "priority")


def _ring(count: int, radius: float, turn: float = 0.0) -> np.ndarray:
    angle = np.arange(count) * 2 * np.pi / count + turn
    return radius * np.stack([np.sin(angle), np.cos(angle)], axis=-1)


def _faces(sign: str) -> list[tuple[np.ndarray, Colour]]:
    """The painted shapes of a sign: (x, up) outlines in metres around its centre, lowest first."""
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=np.float64)
    disc, triangle = _ring(16, 0.36), _ring(3, 0.46)
    bar = square * np.array([0.24, 0.06])
    table: dict[str, list[tuple[np.ndarray, Colour]]] = {
        "limit": [
            (disc, _RED),
            (disc * 0.74, _WHITE),
            (square * [0.05, 0.14] - [0.1, 0], (30, 30, 30)),
            (square * [0.07, 0.14] + [0.1, 0], (30, 30, 30)),
        ],
        "danger": [(triangle, _RED), (triangle * 0.68, _WHITE), (square * [0.035, 0.12], (30, 30, 30))],
        "yield": [(-triangle, _RED), (-triangle * 0.62, _WHITE)],
        "stop": [(_ring(8, 0.40, np.pi / 8), _RED), (bar * [1.1, 1.2], _WHITE)],
        "no entry": [(disc, _RED), (bar, _WHITE)],
        "direction": [(disc, _BLUE), (square * [0.05, 0.2], _WHITE), (_ring(3, 0.15) + np.array([0, 0.15]), _WHITE)],
        "crossing": [
            (square * 0.34, _BLUE),
            (_ring(3, 0.32) - [0, 0.04], _WHITE),
            (square * [0.04, 0.12], (30, 30, 30)),
        ],
        "priority": [(_ring(4, 0.42), _WHITE), (_ring(4, 0.32), (40, 200, 240))],
    }
    return table[sign]


@dataclass(frozen=True)
class Post:
    """A pole of ``height`` metres that carries a lamp (``arm``, towards the road), signs or a traffic light."""

    height: float
    radius: float
    arm: float = 0.0
    signs: tuple[str, ...] = ()
    lamp: int | None = None  # which of red, amber and green is lit
    turned: bool = False  # its sign or light looks away from the camera

    @classmethod
    def lamp_post(cls, rng: np.random.Generator, towards: float) -> "Post":
        return cls(float(rng.uniform(5.5, 7.5)), 0.075, arm=towards * float(rng.uniform(0.9, 1.6)))

    @classmethod
    def sign_post(cls, rng: np.random.Generator) -> "Post":
        names = tuple(str(name) for name in rng.choice(_SIGNS, size=1 + int(rng.random() < 0.3), replace=False))
        return cls(2.6 + 0.85 * (len(names) - 1), 0.045, signs=names, turned=bool(rng.random() < 0.15))

    @classmethod
    def traffic_light(cls, rng: np.random.Generator) -> "Post":
        return cls(3.3, 0.07, lamp=int(rng.integers(3)), turned=bool(rng.random() < 0.2))

    def draw(self, canvas: Canvas, position: np.ndarray) -> None:
        camera, depth, level = canvas.camera, float(position[2]), canvas.light.level
        scale = camera.scale(depth)
        foot = camera.project(position)
        radius = max(self.radius * scale, 0.8)
        grey = np.multiply((98.0, 100.0, 100.0), level)

        def box(x: float, up: float, half: float, tall: float, colour: np.ndarray | Colour, label: int) -> None:
            corners = np.array([(x - half, -up), (x + half, -up), (x + half, -up - tall), (x - half, -up - tall)])
            canvas.convex(foot + corners * scale, colour, label, depth)

        box(0, 0, radius / scale, self.height, grey, _POLE)
        box(radius / scale * 0.5, 0, radius / scale * 0.3, self.height, grey * 1.25, _POLE)
        if self.arm:
            tip = foot + np.array([self.arm, -self.height]) * scale
            canvas.stroke(np.stack([foot - [0, self.height * scale], tip]), radius * 1.4, grey, _POLE, depth)
            box(self.arm, self.height - 0.1, 0.3, 0.16, grey * 0.8, _POLE)
        if self.lamp is not None:
            box(0, self.height - 0.95, 0.20, 1.0, np.array([34.0, 36.0, 36.0]) * level, _LIGHT)
            self._light(canvas, foot, scale, depth)
        for i, sign in enumerate(self.signs):
            centre = foot - np.array([0, self.height - 0.4 - 0.85 * i]) * scale
            shapes = _faces(sign)
            if self.turned:
                shapes = [(shapes[0][0], (120.0, 122.0, 122.0))]
            for outline, colour in shapes:
                canvas.convex(centre + outline * [scale, -scale], np.multiply(colour, level), _SIGN, depth)

    def _light(self, canvas: Canvas, foot: np.ndarray, scale: float, depth: float) -> None:
        if self.turned or canvas.labels_only:
            return
        for i, colour in enumerate(((50, 50, 250), (40, 190, 250), (120, 240, 80))):
            at = foot - np.array([0, self.height - 0.12 - 0.31 * i]) * scale
            lit = i == self.lamp
            canvas.disc(at, 0.115 * scale, np.multiply(colour, 1.0 if lit else 0.28), _LIGHT, depth)
