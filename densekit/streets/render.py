"""Paints a scene far to near and reads the labels off the painting."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from densekit.ops.outlines import bounds
from densekit.streets.actors import Actor, Cyclist
from densekit.streets.scene import Scene, sample_scene
from densekit.streets.sprites import ground
from densekit.streets.sprites.person import Person
from densekit.streets.world import SUPERSAMPLING, Canvas

FIRST_THING = 40  # canvas labels from here on are instances; below, they are Cityscapes label ids of stuff
MIN_PIXELS = 40  # an instance with fewer visible pixels is not placed,
MIN_VISIBLE = 0.3  # nor one of which less than this share is visible
_VARIANTS = 4  # of noise squares, which are made once per process
_ATTEMPTS = 8  # draws of a scene until something is in it


@dataclass(frozen=True)
class Thing:
    """An instance in the picture.

    ``whole`` (H, W) bool is its mask before anything nearer was painted; ``keypoints`` (17, 3) are COCO's x, y (pixel
    indices) and visibility 0, 1 or 2.
    """

    label: int  # its value in the label map
    category: str
    crowd: bool
    depth: float
    whole: np.ndarray
    keypoints: np.ndarray | None


@dataclass(frozen=True)
class Picture:
    """A painted scene: BGR image (H, W, 3) uint8, label map (H, W) uint8, and the things in it, far to near.

    The label map holds Cityscapes' label id for stuff and ``Thing.label`` for things.
    """

    image: np.ndarray
    labels: np.ndarray
    things: list[Thing]


def _majority(labels: np.ndarray) -> np.ndarray:
    """The most frequent value of each 2 by 2 block (the first of those that tie)."""
    a, b, c, d = labels[::2, ::2], labels[::2, 1::2], labels[1::2, ::2], labels[1::2, 1::2]
    return np.where((a == b) | (a == c) | (a == d), a, np.where((b == c) | (b == d), b, np.where(c == d, c, a)))


def _mask(labels: np.ndarray, label: int) -> np.ndarray:
    """Returns the mask of a label in the reduced label map; only the surroundings of its pixels are looked at."""
    mask = labels[::2, ::2] == label
    if mask.any():
        x0, y0, x1, y1 = bounds(mask)
        x0, y0 = max(x0 - 1, 0), max(y0 - 1, 0)
        mask[y0 : y1 + 1, x0 : x1 + 1] = _majority(labels[2 * y0 : 2 * y1 + 2, 2 * x0 : 2 * x1 + 2]) == label
    return mask


def _numbered(actors: tuple[Actor, ...]) -> list[tuple[Actor, tuple[int, ...]]]:
    """Actors far to near, with the canvas labels of their instances."""
    numbered, label = [], FIRST_THING
    for actor in sorted(actors, key=lambda actor: -actor.depth):
        numbered.append((actor, tuple(range(label, label + len(actor.categories)))))
        label += len(actor.categories)
    return numbered


def _paint(scene: Scene, canvas: Canvas) -> dict[int, np.ndarray]:
    """Paints everything; returns the mask (H, W) of each instance as it was before anything nearer was painted."""
    variant = scene.grade.seed % _VARIANTS
    ground.draw_sky(canvas, scene.zenith, ground.noise(variant, 256, (3, 6, 14, 30)), scene.cover)
    for strip in scene.strips:
        ground.draw_strip(canvas, strip)
    for x, z in scene.markings:
        ground.paint_marking(canvas, x, z)
    ground.texture_ground(canvas, ground.noise(variant, 512, (9, 40, 170, 512)), scene.joints)
    outlines = [outline for actor in scene.actors for outline in actor.shadows(scene.light.sun)]
    outlines += [ground.crown_shadow(static.crown, scene.light.sun) for static in scene.statics if static.crown]
    ground.cast_shadows(canvas, outlines, darkness=0.25 + 0.45 * scene.light.direct)
    whole: dict[int, np.ndarray] = {}
    todo: list[tuple[float, Callable[..., None], tuple[int, ...]]]
    todo = [(static.depth, static.draw, ()) for static in scene.statics]
    todo += [(actor.depth, actor.draw, labels) for actor, labels in _numbered(scene.actors)]
    for _, draw, labels in sorted(todo, key=lambda item: -item[0]):
        if not labels:
            draw(canvas)
            continue
        draw(canvas, labels)
        for label in labels:
            whole[label] = _mask(canvas.labels, label)
    return whole


def settle(scene: Scene) -> Scene:
    """The scene without those actors of which too little would be seen.

    Taking one away only uncovers others, so what is kept here is visible enough in the final painting too.
    """
    canvas = Canvas(scene.camera, scene.light, labels_only=True)
    whole = _paint(scene, canvas)
    seen = np.bincount(_majority(canvas.labels).ravel(), minlength=256)
    kept = []
    for actor, labels in _numbered(scene.actors):
        pixels = np.array([seen[label] for label in labels])
        shares = pixels / np.maximum([whole[label].sum() for label in labels], 1)
        if (pixels >= MIN_PIXELS).all() and (shares >= MIN_VISIBLE).all():
            kept.append(actor)
    return replace(scene, actors=tuple(kept))


def _develop(scene: Scene, canvas: Canvas, labels: np.ndarray) -> np.ndarray:
    """Reduces the canvas to the picture's size and lets lens and sensor do their part."""
    grade, rng = scene.grade, np.random.default_rng(scene.grade.seed + 1)
    height, width = labels.shape
    image = cv2.resize(canvas.pixels[..., 1:], (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    # Walls and leaves are not flat: a grain that stands in the picture is enough at their distance.
    roughness = np.full(256, 0.025, dtype=np.float32)
    for label, value in ((11, 0.03), (21, 0.08), (23, 0.0), (7, 0.015), (8, 0.015)):
        roughness[label] = value
    side = max(width, height)
    grain = ground.noise(grade.seed % _VARIANTS, side, (max(side // 8, 1), max(side // 3, 1), side))[:height, :width]
    image *= (1 + grain * roughness[labels])[..., None]
    if grade.blur > 0.2:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), grade.blur), dtype=np.float32)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    falloff = 255 * (1 - grade.vignette * (x * x + y * y) / 2)
    image = (image * (grade.gain / 255).astype(np.float32)).clip(0, 1)
    image = np.float32(cv2.pow(image, grade.gamma) * falloff[..., None])
    image += np.float32(grade.grain * 0.6) * rng.standard_normal((height, width, 3), dtype=np.float32)
    image += np.float32(grade.grain * 0.8) * rng.standard_normal((height, width, 1), dtype=np.float32)
    return np.rint(image).clip(0, 255).astype(np.uint8)


def _keypoints(scene: Scene, actor: Actor, label: int, labels: np.ndarray) -> np.ndarray | None:
    """COCO keypoints of a person or rider; None for everything else."""
    sprite, position, yaw = actor.figures[0]
    body = sprite.person if isinstance(sprite, Cyclist) else sprite
    if actor.crowd or not isinstance(body, Person):
        return None
    flat, hidden = body.keypoints(scene.camera, position, yaw)
    height, width = labels.shape
    found = np.zeros((len(flat), 3), dtype=np.int64)
    for i, (x, y) in enumerate(np.floor(flat / SUPERSAMPLING).astype(int)):
        if not (0 <= x < width and 0 <= y < height):
            continue
        around = labels[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        found[i] = x, y, 2 if not hidden[i] and (around == label).any() else 1
    return found


def render(scene: Scene) -> Picture:
    """Paints a settled scene."""
    canvas = Canvas(scene.camera, scene.light)
    whole = _paint(scene, canvas)
    labels = np.ascontiguousarray(_majority(canvas.labels))
    things = []
    for actor, numbers in _numbered(scene.actors):
        for label, category in zip(numbers, actor.categories):
            is_body = category in ("person", "rider")
            points = _keypoints(scene, actor, label, labels) if is_body else None
            things.append(Thing(label, category, actor.crowd, actor.depth, whole[label], points))
    return Picture(_develop(scene, canvas, labels), labels, things)


def make_picture(seed: int, split: int, index: int, width: int, height: int) -> Picture:
    """The picture of a seed, a split (0, 1 ...) and an index in it: the same numbers give the same picture."""
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, split, index, attempt])
        scene = settle(sample_scene(rng, width, height))
        if any(not actor.crowd for actor in scene.actors):
            break
    return render(scene)
