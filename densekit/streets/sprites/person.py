"""Persons and riders: a body of limbs around its joints, dressed, with exact keypoints."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from densekit.streets.labels import KEYPOINT_NAMES
from densekit.streets.sprites.bicycle import Bicycle
from densekit.streets.sprites.mesh import heading_axes
from densekit.streets.sprites.stances import HEAD_RADIUS, JOINT, Stance, cycling, standing
from densekit.streets.world import Camera, Canvas, Colour, hull_of_discs

_SKINS: tuple[Colour, ...] = ((170, 195, 235), (140, 170, 220), (100, 135, 190), (70, 95, 145), (48, 62, 95))
_HAIRS: tuple[Colour, ...] = ((30, 34, 40), (40, 60, 90), (90, 150, 190), (130, 130, 130), (40, 70, 130))
_SHOES: tuple[Colour, ...] = ((36, 34, 34), (60, 70, 90), (215, 215, 215), (60, 60, 170))
_TOPS: tuple[Colour, ...] = (
    (60, 60, 200),
    (190, 110, 50),
    (70, 150, 70),
    (60, 190, 225),
    (220, 220, 220),
    (50, 48, 48),
    (130, 70, 140),
    (150, 150, 90),
    (45, 125, 225),
    (120, 90, 70),
)
_TROUSERS: tuple[Colour, ...] = (
    (110, 72, 48),
    (60, 52, 46),
    (40, 38, 38),
    (120, 140, 160),
    (90, 90, 92),
    (80, 100, 70),
)

# Limbs: name, end joints, radii at both as shares of the height.
_LIMBS = (
    ("foot", "{}_ankle", "{}_toe", 0.022, 0.016),
    ("shank", "{}_knee", "{}_ankle", 0.030, 0.021),
    ("thigh", "{}_hip", "{}_knee", 0.046, 0.031),
    ("upper_arm", "{}_shoulder", "{}_elbow", 0.029, 0.023),
    ("forearm", "{}_elbow", "{}_wrist", 0.023, 0.018),
)


@dataclass(frozen=True)
class Outfit:
    """Colours of skin, hair and clothes, and what is worn."""

    skin: Colour
    hair: Colour
    top: Colour
    trousers: Colour
    shoes: Colour
    sleeves: bool
    skirt: bool
    coat: bool
    bag: Colour | None
    helmet: Colour | None

    @classmethod
    def sample(cls, rng: np.random.Generator, riding: bool) -> "Outfit":
        def pick(colours: tuple[Colour, ...]) -> Colour:
            b, g, r = (np.array(colours[int(rng.integers(len(colours)))]) + rng.normal(0, 8, 3)).clip(15, 245)
            return (b, g, r)

        style = rng.random()
        return cls(
            skin=pick(_SKINS),
            hair=pick(_HAIRS),
            top=pick(_TOPS),
            trousers=pick(_TROUSERS),
            shoes=pick(_SHOES),
            sleeves=bool(rng.random() < 0.6),
            skirt=not riding and style < 0.15,
            coat=not riding and style > 0.75,
            bag=pick(_TOPS) if rng.random() < 0.25 else None,
            helmet=pick(_TOPS) if riding and rng.random() < 0.6 else None,
        )


@dataclass(frozen=True)
class _Part:
    """A painted piece of the body: the hull of discs, all in drawing pixels."""

    name: str
    centres: np.ndarray  # (N, 2)
    radii: tuple[float, ...]
    distance: float  # along the view, for the painting order
    colour: Colour

    def covers(self, point: np.ndarray) -> bool:
        """Tells whether a point (2,) lies inside this piece."""
        hull = hull_of_discs(self.centres, self.radii)
        return cv2.pointPolygonTest(hull, (float(point[0]), float(point[1])), False) > 0


@dataclass(frozen=True)
class Person:
    """A person on foot (``stance``) or on a bicycle (``pedals``: the phase of the pedals)."""

    height: float
    outfit: Outfit
    stance: Stance | None
    pedals: float = 0.0

    @classmethod
    def sample(cls, rng: np.random.Generator, *, riding: bool = False) -> "Person":
        child = not riding and rng.random() < 0.1
        height = rng.uniform(1.15, 1.4) if child else rng.normal(1.73, 0.08)
        stance = None if riding else Stance.sample(rng)
        return cls(float(height), Outfit.sample(rng, riding), stance, float(rng.uniform(0, 2 * np.pi)))

    @property
    def size(self) -> tuple[float, float, float]:
        return 0.6, 0.6, self.height

    @cached_property
    def joints(self) -> np.ndarray:
        """Joints (21, 3) in the local frame."""
        return cycling(self.pedals, self.height) if self.stance is None else standing(self.stance, self.height)

    def _parts(self, camera: Camera, position: np.ndarray, yaw: float) -> list[_Part]:
        """The body's pieces, far to near."""
        world = self.joints @ heading_axes(yaw) + position
        flat, scale = camera.project(world), camera.scale(float(position[2])) * self.height
        wear, parts = self.outfit, []
        colours = {
            "foot": wear.shoes,
            "shank": wear.skin if wear.skirt else wear.trousers,
            "thigh": wear.trousers,
            "upper_arm": wear.top,
            "forearm": wear.top if wear.sleeves or wear.coat else wear.skin,
        }
        for side in ("left", "right"):
            for name, a, b, ra, rb in _LIMBS:
                ends = [JOINT[a.format(side)], JOINT[b.format(side)]]
                parts.append(
                    _Part(f"{side}_{name}", flat[ends], (ra * scale, rb * scale), world[ends, 2].mean(), colours[name])
                )
            wrist = [JOINT[f"{side}_wrist"]] * 2
            parts.append(_Part(f"{side}_hand", flat[wrist], (0.021 * scale,) * 2, world[wrist[0], 2], wear.skin))
        parts.append(self._trunk(world, flat, scale))
        head = flat[JOINT["crown"]]
        neck = np.stack([flat[JOINT["neck"]], head])
        distance = world[JOINT["crown"], 2]
        parts.append(_Part("neck", neck, (0.026 * scale, 0.026 * scale), distance + 0.001, wear.skin))
        parts.append(_Part("head", np.stack([head, head]), (HEAD_RADIUS * scale,) * 2, distance, wear.hair))
        if wear.bag is not None:
            back = np.array([[-0.13, 0.0, 0.0]]) @ heading_axes(yaw)
            spine = world[[JOINT["neck"], JOINT["left_hip"]]].mean(axis=0) + 0.04 + back[0]
            half = np.array([0.0, 0.09, 0.0])
            strap = camera.project(np.stack([spine + half, spine - half]))
            parts.append(_Part("bag", strap, (0.07 * scale, 0.075 * scale), spine[2], wear.bag))
        return sorted(parts, key=lambda part: -part.distance)

    def _trunk(self, world: np.ndarray, flat: np.ndarray, scale: float) -> _Part:
        names = ["left_shoulder", "right_shoulder", "left_hip", "right_hip"]
        rows = [JOINT[name] for name in names]
        centres, radii = flat[rows], [0.034, 0.034, 0.046, 0.046]
        if self.outfit.skirt or self.outfit.coat:
            knees = flat[[JOINT["left_knee"], JOINT["right_knee"]]]
            hem = 0.35 * centres[2:] + 0.65 * knees
            centres, radii = np.concatenate([centres[:2], hem]), [0.036, 0.036, 0.05, 0.05]
        return _Part("trunk", centres, tuple(r * scale for r in radii), float(world[rows, 2].mean()), self.outfit.top)

    def draw(
        self, canvas: Canvas, position: np.ndarray, yaw: float, label: int, bicycle: tuple[Bicycle, int] | None = None
    ) -> None:
        """Paints the body; a bicycle with its label is painted between the far and the near leg."""
        depth, light = float(position[2]), canvas.light
        pending = bicycle
        for part in self._parts(canvas.camera, position, yaw):
            if pending is not None and part.distance <= depth + 0.02:
                pending[0].draw(canvas, position, yaw, pending[1])
                pending = None
            colour = np.multiply(part.colour, light.level)
            canvas.convex(hull_of_discs(part.centres, part.radii), colour, label, depth)
            if canvas.labels_only:
                continue
            if part.radii[0] > 2.5:  # the sunny side of a round limb
                shift = np.array([np.sign(light.sun[0]) * 0.3, -0.12]) * part.radii[0]
                bright = np.multiply(part.colour, light.level + 0.3 * light.direct)
                canvas.convex(hull_of_discs(part.centres + shift, [0.55 * r for r in part.radii]), bright, label, depth)
            if part.name == "head":
                self._face(canvas, position, yaw, part, label)

    def _face(self, canvas: Canvas, position: np.ndarray, yaw: float, head: _Part, label: int) -> None:
        front, side = heading_axes(yaw)[0], heading_axes(yaw)[1]
        depth, radius, level = float(position[2]), head.radii[0], canvas.light.level
        towards = -front[2]  # 1: the face looks at the camera
        if towards > -0.55:
            shift = np.array([front[0] * 0.42, 0.16]) * radius
            spot = head.centres[0] + shift
            canvas.disc(spot, radius * 0.8, np.multiply(self.outfit.skin, level), label, depth)
            if towards > 0.2 and radius > 5:
                for eye in (-1, 1):
                    at = spot + np.array([front[0] * 0.3 + side[0] * eye * 0.35, -0.05]) * radius
                    canvas.disc(at, radius * 0.1, (40, 40, 40), label, depth)
        if self.outfit.helmet is not None:
            cap = head.centres[0] + np.stack([[-0.5, -0.45], [0.5, -0.45]]) * radius
            canvas.convex(
                hull_of_discs(cap, (radius * 0.62,) * 2), np.multiply(self.outfit.helmet, level), label, depth
            )

    def keypoints(self, camera: Camera, position: np.ndarray, yaw: float) -> tuple[np.ndarray, np.ndarray]:
        """The 17 COCO keypoints (17, 2) in drawing pixels, and whether the body itself hides each (17,)."""
        axes = heading_axes(yaw)
        world = self.joints @ axes + position
        flat = camera.project(world)[: len(KEYPOINT_NAMES)]
        parts = self._parts(camera, position, yaw)
        hidden = np.zeros(len(KEYPOINT_NAMES), dtype=bool)
        crown = world[JOINT["crown"]]
        view = np.array([0.0, camera.eye, 0.0]) - crown
        for i, name in enumerate(KEYPOINT_NAMES):
            if i < 5:  # on the face: hidden when it is on the far side of the head
                outwards = world[i] - crown
                hidden[i] = outwards @ view < -0.25 * np.linalg.norm(outwards) * np.linalg.norm(view)
                continue
            side, joint = name.split("_")
            own = {"shoulder": ("upper_arm", "trunk"), "hip": ("thigh", "trunk"), "elbow": ("upper_arm", "forearm")}
            own |= {"knee": ("thigh", "shank"), "wrist": ("forearm", "hand"), "ankle": ("shank", "foot")}
            mine = {f"{side}_{part}" for part in own[joint]} | {"trunk" if "trunk" in own[joint] else ""}
            last = max(k for k, part in enumerate(parts) if part.name in mine)
            hidden[i] = any(part.covers(flat[i]) for part in parts[last + 1 :])
        return flat, hidden
