"""The plan of a street on the ground: its parts, surfaces and markings. Traffic keeps to the right."""

from dataclasses import dataclass

import numpy as np

from densekit.streets.sprites.ground import Strip
from densekit.streets.world import Colour, pick_colour

Range = tuple[float, float]

_ASPHALTS: tuple[Colour, ...] = ((104, 102, 100), (88, 86, 86), (122, 118, 114), (96, 98, 104))
_PAVINGS: tuple[Colour, ...] = ((158, 164, 170), (140, 150, 164), (172, 172, 170), (128, 138, 158))
_GRASS: tuple[Colour, ...] = ((60, 128, 96), (66, 118, 112), (52, 140, 104))


@dataclass(frozen=True)
class Street:
    """The plan: x of the road's edges and middle, of the fronts, and the z ranges of what lies along it."""

    left: float
    right: float
    fronts: tuple[float, float]
    parks: tuple[bool, bool]  # a park instead of houses, on the left and on the right
    parking: bool  # a lane of parked cars at either edge
    crossing: tuple[float, float] | None  # z range of a crossing road
    end: float  # z where the street ends at a row of houses

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2

    def lane(self, side: int) -> float:
        """Middle of the moving lane on the left (-1) or right (1) half."""
        half = (self.right - self.left) / 2 - (2.1 if self.parking else 0.0)
        return self.middle + side * half / 2


def sample_street(rng: np.random.Generator) -> Street:
    """Draws a plan; the camera stands at x = 0 in the right lane."""
    half = rng.uniform(3.6, 6.4)
    parking = bool(half > 5.0 or rng.random() < 0.3)
    half += 1.2 if parking else 0.0
    lane = (half - (2.1 if parking else 0.0)) / 2
    offset = lane + rng.normal(0, 0.35)  # of the camera from the middle of the road
    left, right = -half - offset, half - offset
    fronts = (left - rng.uniform(2.4, 4.8), right + rng.uniform(2.4, 4.8))
    crossing, end = None, float(rng.uniform(60, 110))
    if rng.random() < 0.6:
        near = rng.uniform(10.5, 26)
        crossing = (float(near), float(near + rng.uniform(6.5, 9.0)))
        if rng.random() < 0.4:
            end = crossing[1] + float(rng.uniform(3.0, 8.0))
    parks = (bool(rng.random() < 0.25), bool(rng.random() < 0.25))
    return Street(float(left), float(right), (float(fronts[0]), float(fronts[1])), parks, parking, crossing, end)


def surfaces(rng: np.random.Generator, street: Street) -> tuple[Strip, ...]:
    """Returns the strips that the ground is made of, in painting order."""
    asphalt, paving, grass = pick_colour(rng, _ASPHALTS), pick_colour(rng, _PAVINGS), pick_colour(rng, _GRASS)
    kerb: Colour = (paving[0] * 0.82, paving[1] * 0.82, paving[2] * 0.82)
    far = street.end
    strips = [Strip((-150, 150), (0, 300), grass, "terrain")]
    for side, front in enumerate(street.fronts):
        inner = (street.left, street.right)[side]
        outer = front if street.parks[side] else front + (-1, 1)[side] * 30
        strips.append(Strip((min(inner, outer), max(inner, outer)), (0, far), paving, "sidewalk"))
    strips.append(Strip((-150, 150), (far - 3.0, far + 0.5), paving, "sidewalk"))
    if street.crossing is not None:
        near, rear = street.crossing
        strips += [
            Strip((-150, 150), (near - 2.4, rear + 2.4), paving, "sidewalk"),
            Strip((-150, 150), (near, rear), asphalt, "road"),
        ]
    road_end = far - 3.0 if street.crossing is None or far - street.crossing[1] > 10 else street.crossing[1]
    strips.append(Strip((street.left, street.right), (0, road_end), asphalt, "road"))
    for x in (street.left, street.right):
        for z0, z1 in outside(street.crossing, 0, road_end):
            strips.append(Strip((x - 0.09, x + 0.09), (z0, z1), kerb, "sidewalk"))
    return tuple(strips)


def outside(gap: Range | None, start: float, end: float) -> list[Range]:
    """The parts of a z range that a crossing leaves."""
    if gap is None:
        return [(start, end)]
    return [(a, b) for a, b in ((start, gap[0]), (gap[1], end)) if b - a > 0.5]


def markings(rng: np.random.Generator, street: Street) -> tuple[tuple[Range, Range], ...]:
    """White rectangles on the road: x and z ranges of lane lines, zebra crossing and stop line."""
    marks = []
    road_end = street.end - 3.0
    for z0, z1 in outside(street.crossing, 0, road_end):
        phase = float(rng.uniform(0, 6))
        for z in np.arange(z0 + phase, z1 - 3, 6.0):
            marks.append(((street.middle - 0.07, street.middle + 0.07), (float(z), float(z) + 3.0)))
        if street.parking:
            for x in (street.left + 2.1, street.right - 2.1):
                marks.append(((x - 0.05, x + 0.05), (z0, z1)))
    if street.crossing is not None:
        z = street.crossing[0] - 3.2
        for x in np.arange(street.left + 0.4, street.right - 0.5, 1.0):
            marks.append(((float(x), float(x) + 0.5), (z, z + 2.6)))
        marks.append(((street.middle, street.right), (z - 1.2, z - 0.9)))
    return tuple(marks)
