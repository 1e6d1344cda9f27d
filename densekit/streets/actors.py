"""Those who are counted: vehicles, bicycles, persons, cyclists and groups of them, with their places."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from densekit.streets.sprites.bicycle import Bicycle
from densekit.streets.sprites.mesh import heading_axes
from densekit.streets.sprites.person import Person
from densekit.streets.sprites.vehicles import Vehicle
from densekit.streets.world import Canvas


@dataclass(frozen=True)
class Cyclist:
    """A person on a bicycle: two instances that come and go together."""

    person: Person
    bicycle: Bicycle

    size = (1.75, 0.6, 1.75)


Sprite = Vehicle | Bicycle | Person | Cyclist


class Figure(NamedTuple):
    """A sprite at a world position (3,) with a heading (radians; 0 = away from the camera)."""

    sprite: Sprite
    position: np.ndarray
    yaw: float

    def footprint(self) -> np.ndarray:
        """Corners (4, 3) of its ground rectangle in the world."""
        length, width, _ = self.sprite.size
        corners = np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)]) * np.array([length, width, 0]) / 2
        return corners @ heading_axes(self.yaw) + self.position


@dataclass(frozen=True)
class Actor:
    """One or two instances painted together, or a group that counts as one crowd region.

    ``categories`` names the instances in the order of the labels that ``draw`` takes.
    """

    categories: tuple[str, ...]
    figures: tuple[Figure, ...]
    crowd: bool = False

    @classmethod
    def single(cls, kind: str, figure: Figure) -> "Actor":
        return cls(("bicycle", "rider") if kind == "cyclist" else (kind,), (figure,))

    @property
    def depth(self) -> float:
        """Distance along the view at which it is painted, metres."""
        return float(np.mean([figure.position[2] for figure in self.figures]))

    def bounds(self) -> tuple[float, float, float, float]:
        """Ground it takes: x from, x to, z from, z to, with a little room around."""
        corners = np.concatenate([figure.footprint() for figure in self.figures])
        low, high = corners.min(axis=0) - 0.15, corners.max(axis=0) + 0.15
        return float(low[0]), float(high[0]), float(low[2]), float(high[2])

    def shadows(self, sun: np.ndarray) -> list[np.ndarray]:
        """Ground outlines (N, 2) of x and z that it shades when light comes from ``sun``."""
        outlines = []
        for figure in self.figures:
            foot = figure.footprint()[:, [0, 2]]
            # A person is no box: the shadow of the upper parts is narrower than the ground it claims.
            top = foot if isinstance(figure.sprite, Vehicle) else foot * 0.4 + foot.mean(axis=0) * 0.6
            drift = -sun[[0, 2]] / max(float(sun[1]), 0.3) * figure.sprite.size[2] * 0.9
            outlines.append(np.concatenate([top, top + drift]))
        return outlines

    def draw(self, canvas: Canvas, labels: tuple[int, ...]) -> None:
        for figure in sorted(self.figures, key=lambda figure: -figure.position[2]):
            sprite, position, yaw = figure
            if isinstance(sprite, Cyclist):
                sprite.person.draw(canvas, position, yaw, labels[1], bicycle=(sprite.bicycle, labels[0]))
            else:
                sprite.draw(canvas, position, yaw, labels[0])


def sample_figure(rng: np.random.Generator, kind: str) -> tuple[Sprite, float]:
    """Draws the looks of one actor: person, cyclist, bicycle, car, truck or bus; also its height in metres."""
    if kind == "person":
        person = Person.sample(rng)
        return person, person.height
    if kind == "cyclist":
        return Cyclist(Person.sample(rng, riding=True), Bicycle.sample(rng)), Cyclist.size[2]
    if kind == "bicycle":
        return Bicycle.sample(rng), Bicycle.size[2]
    vehicle = Vehicle.sample(rng, kind)
    return vehicle, vehicle.size[2]
