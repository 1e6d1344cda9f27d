"""Things that line a street and only hide: houses, parks, trees, lamp posts, signs and traffic lights."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from densekit.streets.sprites.buildings import Building
from densekit.streets.sprites.furniture import Post
from densekit.streets.sprites.plants import Plant
from densekit.streets.street import Street, outside
from densekit.streets.world import Canvas


@dataclass(frozen=True)
class Static:
    """Something that only hides and is never counted: what paints it, at a depth.

    ``crown``: x, z, radius and height of what casts a shadow, metres.
    """

    depth: float
    draw: Callable[[Canvas], None]
    crown: tuple[float, float, float, float] | None = None


@dataclass
class _Surroundings:
    """Collects what lines the street."""

    rng: np.random.Generator
    street: Street
    items: list[Static] = field(default_factory=list)

    def houses_along(self, side: int, z0: float, z1: float) -> None:
        x = self.street.fronts[side]
        z = z0
        while z < z1 - 1:
            length = min(float(self.rng.uniform(7, 15)), z1 - z)
            house = Building.sample(self.rng, (x, z), (x, z + length))
            self.items.append(Static(house.farthest, house.draw))
            z += length

    def houses_across(self, x0: float, x1: float, z: float) -> None:
        x = x0
        while x < x1:
            width = float(self.rng.uniform(8, 16))
            house = Building.sample(self.rng, (x, z), (x + width, z))
            self.items.append(Static(z, house.draw))
            x += width

    def plant(self, plant: Plant, x: float, z: float) -> None:
        position = np.array([x, 0.0, z])
        crown = (x, z, plant.radius, plant.height) if plant.trunk else None
        self.items.append(Static(z, lambda canvas: plant.draw(canvas, position), crown))

    def post(self, post: Post, x: float, z: float) -> None:
        position = np.array([x, 0.0, z])
        self.items.append(Static(z, lambda canvas: post.draw(canvas, position)))

    def park(self, side: int, z0: float, z1: float) -> None:
        sign, front = (-1, 1)[side], self.street.fronts[side]
        for z in np.arange(z0 + 1.5, z1, 3.0):
            if self.rng.random() < 0.75 and z < 50:
                self.plant(Plant.hedge(self.rng, 2.9), front + sign * 0.8, float(z))
        for z in np.arange(z0 + self.rng.uniform(1, 4), z1, 6.0):
            for row in (3.5, 9.0, 16.0):
                if self.rng.random() < 0.7:
                    x = front + sign * (row + self.rng.uniform(-1.5, 1.5))
                    self.plant(Plant.tree(self.rng), float(x), float(z + self.rng.uniform(-2, 2)))

    def furniture(self, side: int) -> None:
        """Lamp posts, trees and signs along the kerb."""
        sign, kerb = (-1, 1)[side], (self.street.left, self.street.right)[side]
        x, ends = kerb + sign * 0.55, min(self.street.end - 4, 60.0)
        trees, step = self.rng.random() < 0.4, float(self.rng.uniform(8, 13))
        for i, z in enumerate(np.arange(self.rng.uniform(6, 14), ends, step)):
            if self._on_road(float(z)):
                continue
            if trees and i % 2:
                self.plant(Plant.tree(self.rng), x + sign * 0.4, float(z))
            elif self.rng.random() < 0.8:
                self.post(Post.lamp_post(self.rng, -sign), x, float(z))
        for z in self.rng.uniform(8, 32, int(self.rng.integers(0, 3))):
            if not self._on_road(float(z)):
                self.post(Post.sign_post(self.rng), x, float(z))

    def _on_road(self, z: float) -> bool:
        gap = self.street.crossing
        return gap is not None and gap[0] - 1 < z < gap[1] + 1


def sample_surroundings(rng: np.random.Generator, street: Street) -> tuple[Static, ...]:
    """Draws everything that stands along a street."""
    found = _Surroundings(rng, street)
    found.houses_across(-street.end * 0.9, street.end * 0.9, street.end)
    gap = None if street.crossing is None else (street.crossing[0] - 2.4, street.crossing[1] + 2.4)
    for side in (0, 1):
        for z0, z1 in outside(gap, 2.0, street.end - 3.0):
            if street.parks[side]:
                found.park(side, max(z0, 4.0), z1)
            else:
                found.houses_along(side, z0, z1)
        found.furniture(side)
    if street.crossing is not None and rng.random() < 0.6:
        found.post(Post.traffic_light(rng), street.right + 0.5, street.crossing[0] - 0.6)
        found.post(Post.traffic_light(rng), street.left - 0.5, street.crossing[0] - 0.6)
    return tuple(found.items)
