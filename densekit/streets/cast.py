"""Cast of a scene: places on the ground for traffic and walkers, none of them taken twice."""

import numpy as np

from densekit.streets.actors import Actor, Figure, sample_figure
from densekit.streets.street import Street
from densekit.streets.world import SUPERSAMPLING, Camera

# How often a kind of actor is proposed, and the least height in final pixels at which it is still worth its place.
_PROPOSALS = (
    ("person", 0.30, 38),
    ("cyclist", 0.17, 40),
    ("bicycle", 0.11, 28),
    ("car", 0.18, 28),
    ("truck", 0.12, 42),
    ("bus", 0.12, 42),
)
_NEAREST = {"person": 5.0, "cyclist": 5.6, "bicycle": 5.2, "car": 7.5, "truck": 11.5, "bus": 13.0}
_FARTHEST = 42.0


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
        depth = self._depth(kind, 1.7 if kind == "person" else 1.05, 30 if kind == "person" else 22)
        if depth is None or depth < 9.5 or self._on_crossing(depth) or self._on_crossing(depth + 2):
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


def sample_actors(rng: np.random.Generator, camera: Camera, street: Street) -> tuple[Actor, ...]:
    """Draws the actors of a scene."""
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
