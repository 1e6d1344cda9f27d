"""Cars, trucks and buses: their looks, drawn by lot, and their meshes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from densekit.streets.sprites.cars import STYLES, car
from densekit.streets.sprites.heavies import BUS_SIZE, TRUCK_SIZE, bus, truck
from densekit.streets.sprites.mesh import Mesh
from densekit.streets.world import Canvas, Colour

# (weight, colour) in BGR: the paints of a usual street.
_CAR_PAINTS = (
    (5, (225, 225, 222)),
    (5, (60, 56, 54)),
    (5, (165, 162, 158)),
    (3, (112, 108, 104)),
    (3, (150, 84, 40)),
    (3, (44, 40, 176)),
    (1, (60, 110, 52)),
    (1, (70, 190, 230)),
    (1, (150, 190, 205)),
    (1, (160, 130, 50)),
)
_BUS_PAINTS = ((2, (50, 190, 240)), (2, (48, 44, 200)), (1, (190, 120, 40)), (1, (90, 160, 70)))
_CAB_PAINTS = ((1, (60, 60, 190)), (1, (170, 100, 40)), (1, (225, 225, 225)), (1, (70, 140, 60)), (1, (40, 120, 220)))
_CARGO_PAINTS = ((3, (228, 230, 230)), (1, (150, 170, 180)), (1, (110, 150, 200)), (1, (140, 150, 110)))


def _pick(rng: np.random.Generator, paints: tuple[tuple[int, Colour], ...]) -> Colour:
    weights = np.array([weight for weight, _ in paints], dtype=np.float64)
    base = np.array(paints[int(rng.choice(len(paints), p=weights / weights.sum()))][1], dtype=np.float64)
    b, g, r = (base + rng.normal(0, 7, 3)).clip(25, 240)
    return (b, g, r)


@dataclass(frozen=True)
class Vehicle:
    """A car, truck or bus of a style and paint; ``size`` is (length, width, height) in metres."""

    kind: str
    style: str
    paint: Colour
    second: Colour
    braking: bool

    @classmethod
    def sample(cls, rng: np.random.Generator, kind: str) -> "Vehicle":
        """Draws the looks of a vehicle of kind car, truck or bus."""
        if kind == "car":
            style = str(rng.choice(list(STYLES)))
            paint = second = _pick(rng, _CAR_PAINTS)
        elif kind == "truck":
            style = str(rng.choice(["box", "box", "tipper"]))
            paint, second = _pick(rng, _CAB_PAINTS), _pick(rng, _CARGO_PAINTS)
        else:
            paint = _pick(rng, _BUS_PAINTS)
            style, second = "city", paint if rng.random() < 0.5 else (220.0, 222.0, 222.0)
        return cls(kind, style, paint, second, bool(rng.random() < 0.3))

    @property
    def size(self) -> tuple[float, float, float]:
        if self.kind == "car":
            length, half, height = STYLES[self.style][:3]
            return length, 2 * half, height
        return TRUCK_SIZE if self.kind == "truck" else BUS_SIZE

    @cached_property
    def mesh(self) -> Mesh:
        if self.kind == "car":
            return car(self.style, self.paint, self.braking)
        if self.kind == "truck":
            return truck(self.style, self.paint, self.second)
        return bus(self.paint, self.second, self.braking)

    def draw(self, canvas: Canvas, position: np.ndarray, yaw: float, label: int) -> None:
        self.mesh.draw(canvas, position, yaw, label)
