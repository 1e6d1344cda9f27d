"""Draws the lots for a scene: camera, light, the plan of the street, and who is on it.

The world is the plan of a street seen along its axis: road, pavements, house fronts or a park on either side, perhaps
a crossing, and an end. Positions are chosen on the ground, in metres; how large things appear and what hides what
follows from the camera. Traffic keeps to the right.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from densekit.data.streets.actors import Actor, Figure, sample_figure
from densekit.data.streets.sprites.buildings import Building
from densekit.data.streets.sprites.furniture import Post
from densekit.data.streets.sprites.ground import Strip
from densekit.data.streets.sprites.plants import Plant
from densekit.data.streets.world import SUPERSAMPLING, Camera, Canvas, Colour, Light

_ASPHALTS: tuple[Colour, ...] = ((104, 102, 100), (88, 86, 86), (122, 118, 114), (96, 98, 104))
_PAVINGS: tuple[Colour, ...] = ((158, 164, 170), (140, 150, 164), (172, 172, 170), (128, 138, 158))
_GRASS: tuple[Colour, ...] = ((60, 128, 96), (66, 118, 112), (52, 140, 104))
_ZENITHS: tuple[Colour, ...] = ((205, 150, 96), (215, 175, 130), (195, 165, 140))
_AIRS: tuple[Colour, ...] = ((228, 220, 210), (215, 212, 208), (205, 215, 228), (232, 226, 222))

# How often a kind of actor is proposed, and the least height in final pixels at which it is still worth its place.
_PROPOSALS = (
    ("person", 0.30, 32),
    ("cyclist", 0.17, 34),
    ("bicycle", 0.11, 24),
    ("car", 0.18, 22),
    ("truck", 0.12, 36),
    ("bus", 0.12, 36),
)
_NEAREST = {"person": 5.0, "cyclist": 5.6, "bicycle": 5.2, "car": 7.5, "truck": 11.5, "bus": 13.0}
_FARTHEST = 42.0


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


@dataclass(frozen=True)
class Static:
    """Something that only hides and is never counted: what paints it, at a depth.

    ``crown``: x, z, radius and height of what casts a shadow, metres.
    """

    depth: float
    draw: Callable[[Canvas], None]
    crown: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Grade:
    """What lens and sensor do to the picture."""

    gain: np.ndarray  # (3,) exposure and colour cast
    gamma: float
    blur: float  # sigma in final pixels
    grain: float  # deviation of the sensor noise
    vignette: float
    seed: int


@dataclass(frozen=True)
class Scene:
    """Everything needed to paint one picture; ``statics`` and ``actors`` are in no particular order."""

    camera: Camera
    light: Light
    street: Street
    zenith: Colour
    cover: float  # of clouds
    strips: tuple[Strip, ...]
    markings: tuple[tuple[tuple[float, float], tuple[float, float]], ...]
    joints: float
    statics: tuple[Static, ...]
    actors: tuple[Actor, ...]
    grade: Grade


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...], spread: float = 6.0) -> Colour:
    shift = rng.normal(0, spread) + rng.normal(0, 0.3 * spread, 3)  # brightness varies more than hue
    b, g, r = (np.array(colours[int(rng.integers(len(colours)))]) + shift).clip(20, 240)
    return (b, g, r)


def _camera(rng: np.random.Generator, width: int, height: int) -> Camera:
    return Camera(
        width=width * SUPERSAMPLING,
        height=height * SUPERSAMPLING,
        focal=(0.45 * width + 0.9 * height) * SUPERSAMPLING * rng.uniform(0.94, 1.08),
        centre=width * SUPERSAMPLING * rng.uniform(0.38, 0.62),
        horizon=height * SUPERSAMPLING * rng.uniform(0.40, 0.49),
        eye=rng.uniform(1.4, 1.95),
    )


def _light(rng: np.random.Generator) -> Light:
    turn, rise = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(22, 65))
    sun = np.array([np.cos(rise) * np.sin(turn), np.sin(rise), np.cos(rise) * np.cos(turn)])
    sunny = rng.random() < 0.65
    return Light(
        sun=sun,
        ambient=float(rng.uniform(0.58, 0.70)) if sunny else float(rng.uniform(0.78, 0.9)),
        direct=float(rng.uniform(0.40, 0.58)) if sunny else float(rng.uniform(0.02, 0.12)),
        haze=np.array(_pick(rng, _AIRS)),
        haze_range=float(rng.uniform(70, 130)) if rng.random() < 0.25 else float(rng.uniform(160, 420)),
    )


def _street(rng: np.random.Generator) -> Street:
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


def _strips(rng: np.random.Generator, street: Street) -> tuple[Strip, ...]:
    asphalt, paving, grass = _pick(rng, _ASPHALTS), _pick(rng, _PAVINGS), _pick(rng, _GRASS)
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
        for z0, z1 in _outside(street.crossing, 0, road_end):
            strips.append(Strip((x - 0.09, x + 0.09), (z0, z1), kerb, "sidewalk"))
    return tuple(strips)


def _outside(gap: tuple[float, float] | None, start: float, end: float) -> list[tuple[float, float]]:
    """The parts of a z range that a crossing leaves."""
    if gap is None:
        return [(start, end)]
    return [(a, b) for a, b in ((start, gap[0]), (gap[1], end)) if b - a > 0.5]


def _markings(rng: np.random.Generator, street: Street) -> tuple[tuple[tuple[float, float], tuple[float, float]], ...]:
    marks = []
    road_end = street.end - 3.0
    for z0, z1 in _outside(street.crossing, 0, road_end):
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


@dataclass
class _Statics:
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


def _statics(rng: np.random.Generator, street: Street) -> tuple[Static, ...]:
    found = _Statics(rng, street)
    found.houses_across(-street.end * 0.9, street.end * 0.9, street.end)
    gap = None if street.crossing is None else (street.crossing[0] - 2.4, street.crossing[1] + 2.4)
    for side in (0, 1):
        for z0, z1 in _outside(gap, 2.0, street.end - 3.0):
            if street.parks[side]:
                found.park(side, max(z0, 4.0), z1)
            else:
                found.houses_along(side, z0, z1)
        found.furniture(side)
    if street.crossing is not None and rng.random() < 0.6:
        found.post(Post.traffic_light(rng), street.right + 0.5, street.crossing[0] - 0.6)
        found.post(Post.traffic_light(rng), street.left - 0.5, street.crossing[0] - 0.6)
    return tuple(found.items)


class _Cast:
    """Puts actors on the ground where nothing else stands yet."""

    def __init__(self, rng: np.random.Generator, camera: Camera, street: Street) -> None:
        self.rng, self.camera, self.street = rng, camera, street
        self.actors: list[Actor] = []
        self._taken: list[tuple[float, float, float, float]] = []

    def _depth(self, kind: str, height: float, least: int) -> float | None:
        """A depth at which the thing is tall enough, nearer ones more often; None if there is none."""
        far = min(self.camera.focal / SUPERSAMPLING * height / least, _FARTHEST, self.street.end - 1.5)
        near = max(_NEAREST[kind], self.camera.nearest_ground + 0.4)
        if far <= near:
            return None
        return float(near * (far / near) ** self.rng.uniform(0, 1))

    def _free(self, box: tuple[float, float, float, float]) -> bool:
        return all(box[1] < o[0] or o[1] < box[0] or box[3] < o[2] or o[3] < box[2] for o in self._taken)

    def put(self, actor: Actor, depth: float) -> bool:
        """Adds the actor if its place is free and in view."""
        low, high = self.camera.span(depth)
        x = float(np.mean([figure.position[0] for figure in actor.figures]))
        if not low + 0.2 < x < high - 0.2 or not self._free(actor.bounds()):
            return False
        self._taken.append(actor.bounds())
        self.actors.append(actor)
        return True

    def _pavement(self, depth: float, margin: float) -> float:
        """An x on one of the pavements that is in view at a depth (or the nearest to it)."""
        side = int(self.rng.integers(2))
        inner, outer = (self.street.left, self.street.right)[side], self.street.fronts[side]
        low, high = sorted((inner + (-1, 1)[side] * margin, outer - (-1, 1)[side] * margin))
        seen = self.camera.span(depth)
        low, high = max(low, seen[0] + 0.3), min(high, seen[1] - 0.3)
        return (
            float(self.rng.uniform(low, high))
            if high > low
            else float(self.rng.uniform(min(inner, outer), max(inner, outer)))
        )

    def _on_crossing(self, z: float) -> bool:
        gap = self.street.crossing
        return gap is not None and gap[0] - 0.5 < z < gap[1] + 0.5

    def propose(self, kind: str, least: int) -> bool:
        """Tries one random place for one actor of a kind."""
        figure, height = sample_figure(self.rng, kind)
        depth = self._depth(kind, height, least)
        if depth is None:
            return False
        if kind in ("car", "truck", "bus"):
            place = self._vehicle(kind, depth)
        elif kind == "cyclist":
            place = self._cyclist(depth)
        else:
            place = self._walker(kind, depth)
        if place is None:
            return False
        x, z, yaw = place
        return self.put(Actor.single(kind, Figure(figure, np.array([x, 0.0, z]), yaw)), z)

    def _vehicle(self, kind: str, depth: float) -> tuple[float, float, float] | None:
        street, rng = self.street, self.rng
        lot, wobble = rng.random(), float(rng.normal(0, 0.03))
        if street.crossing is not None and lot < 0.4:
            side = 1 if rng.random() < 0.5 else -1
            z = sum(street.crossing) / 2 - side * (street.crossing[1] - street.crossing[0]) / 4
            low, high = self.camera.span(z)
            return float(rng.uniform(low, high)), z, side * np.pi / 2 + wobble
        side = 1 if rng.random() < 0.5 else -1
        if self._on_crossing(depth - 3) or self._on_crossing(depth + 3):
            return None
        if street.parking and kind == "car" and lot < 0.75:
            x = street.right - 1.05 if side > 0 else street.left + 1.05
        else:
            x = street.lane(side) + float(rng.normal(0, 0.25))
        return x, depth, (0.0 if side > 0 else np.pi) + wobble

    def _cyclist(self, depth: float) -> tuple[float, float, float] | None:
        street, rng, lot = self.street, self.rng, self.rng.random()
        if street.crossing is not None and lot < 0.45:
            z = float(rng.uniform(street.crossing[0] + 0.5, street.crossing[1] - 0.5))
            low, high = self.camera.span(z)
            return float(rng.uniform(low, high)), z, float(rng.choice([-1, 1])) * np.pi / 2 + float(rng.normal(0, 0.12))
        side = 1 if rng.random() < 0.6 else -1
        x = street.lane(side) + side * float(rng.uniform(0.3, 1.4))
        turn = float(rng.normal(0, 0.25)) if lot < 0.8 else float(rng.normal(0, 0.9))
        return x, depth, (0.0 if side > 0 else np.pi) + turn

    def _walker(self, kind: str, depth: float) -> tuple[float, float, float] | None:
        street, rng = self.street, self.rng
        if kind == "person" and street.crossing is not None and rng.random() < 0.3:
            z = float(street.crossing[0] - rng.uniform(0.8, 3.0))
            return (
                float(rng.uniform(street.left, street.right)),
                z,
                float(rng.choice([-1, 1])) * np.pi / 2 + float(rng.normal(0, 0.15)),
            )
        if self._on_crossing(depth):
            return None
        if kind == "bicycle":
            turn = float(rng.choice([-1, 1])) * np.pi / 2 if rng.random() < 0.5 else float(rng.uniform(0, 2 * np.pi))
            return self._pavement(depth, 0.5), depth, turn + float(rng.normal(0, 0.2))
        turn = (
            float(rng.choice([0, np.pi])) + float(rng.normal(0, 0.35))
            if rng.random() < 0.7
            else float(rng.uniform(0, 2 * np.pi))
        )
        return self._pavement(depth, 0.4), depth, turn

    def crowd(self) -> bool:
        """Tries a far group of persons or a row of parked bicycles, which is one region."""
        rng = self.rng
        kind = "person" if rng.random() < 0.6 else "bicycle"
        depth = self._depth(kind, 1.7 if kind == "person" else 1.05, 24 if kind == "person" else 17)
        if depth is None or depth < 11 or self._on_crossing(depth) or self._on_crossing(depth + 2):
            return False
        x = self._pavement(depth, 0.9)
        figures = []
        for i in range(int(rng.integers(4, 8))):
            sprite, _ = sample_figure(rng, kind)
            if kind == "person":
                at, yaw = (x + rng.normal(0, 0.5), depth + rng.normal(0, 0.5)), float(rng.uniform(0, 2 * np.pi))
            else:
                at, yaw = (x + rng.normal(0, 0.06), depth + i * 0.5), np.pi / 2 + float(rng.normal(0.3, 0.08))
            figures.append(Figure(sprite, np.array([at[0], 0.0, at[1]]), yaw))
        return self.put(Actor((kind,), tuple(figures), crowd=True), depth)


def _actors(rng: np.random.Generator, camera: Camera, street: Street) -> tuple[Actor, ...]:
    cast = _Cast(rng, camera, street)
    if rng.random() < 0.25:
        for _ in range(6):
            if cast.crowd():
                break
    shares = np.array([share for _, share, _ in _PROPOSALS])
    wanted = len(cast.actors) + int(rng.integers(5, 11))
    for _ in range(wanted * 6):
        if len(cast.actors) >= wanted:
            break
        kind, _, least = _PROPOSALS[int(rng.choice(len(_PROPOSALS), p=shares / shares.sum()))]
        cast.propose(kind, least)
    return tuple(cast.actors)


def _grade(rng: np.random.Generator) -> Grade:
    warm = rng.normal(0, 0.035)
    gain = rng.uniform(0.92, 1.2) * np.array([1 - warm, 1 + rng.normal(0, 0.01), 1 + warm])
    return Grade(
        gain=gain,
        gamma=float(rng.uniform(0.82, 1.05)),
        blur=float(rng.uniform(0.0, 0.6)),
        grain=float(rng.uniform(1.5, 5.0)),
        vignette=float(rng.uniform(0.0, 0.25)),
        seed=int(rng.integers(2**31)),
    )


def sample_scene(rng: np.random.Generator, width: int, height: int) -> Scene:
    """Draws a scene for a picture of ``width`` by ``height`` final pixels."""
    camera, light, street = _camera(rng, width, height), _light(rng), _street(rng)
    return Scene(
        camera=camera,
        light=light,
        street=street,
        zenith=_pick(rng, _ZENITHS),
        cover=float(rng.uniform(0.1, 0.9)),
        strips=_strips(rng, street),
        markings=_markings(rng, street),
        joints=float(rng.uniform(0.5, 1.2)),
        statics=_statics(rng, street),
        actors=_actors(rng, camera, street),
        grade=_grade(rng),
    )
