"""Sky and ground: the flat parts of a scene, their markings, textures and shadows."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from densekit.streets.labels import LABELS
from densekit.streets.world import Canvas, Colour

_PAINT: Colour = (205, 210, 212)


@dataclass(frozen=True)
class Strip:
    """A rectangle on the ground: x and z ranges in metres."""

    x: tuple[float, float]
    z: tuple[float, float]
    colour: Colour
    label: str


@cache
def noise(variant: int, size: int, octaves: tuple[int, ...]) -> np.ndarray:
    """A square of value noise (size, size) float32 with mean 0 and unit deviation; not to be written to."""
    rng = np.random.default_rng([variant, size, *octaves])
    total = np.zeros((size, size), dtype=np.float32)
    for cells in octaves:
        grid = rng.standard_normal((cells, cells), dtype=np.float32)
        total += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return (total - total.mean()) / total.std()


def draw_sky(canvas: Canvas, zenith: Colour, clouds: np.ndarray, cover: float) -> None:
    """Paints a gradient from the air's colour at the horizon to ``zenith``, with clouds (a noise square)."""
    canvas.pixels[..., 0] = LABELS["sky"].id
    if canvas.labels_only:
        return
    width, rows = canvas.camera.width, min(int(canvas.camera.horizon) + 2, canvas.camera.height)
    rise = ((canvas.camera.horizon - np.arange(rows, dtype=np.float32)) / canvas.camera.height).clip(0, 1)
    share = (1 - np.exp(-4.0 * rise))[:, None, None]
    air = canvas.light.haze.astype(np.float32)
    sky = air * (1 - share) + np.asarray(zenith, dtype=np.float32) * share  # (rows, 1, 3)
    # Clouds flatten towards the horizon.
    down = np.tile((np.log1p(6 * rise) * 0.5 * len(clouds)).astype(np.float32)[:, None], (1, width))
    across = np.tile(np.linspace(0, len(clouds) - 1, width, dtype=np.float32), (rows, 1))
    veil = (0.75 * (cv2.remap(clouds, across, down, cv2.INTER_LINEAR) - 1.2 + 2.4 * cover).clip(0, 1))[..., None]
    canvas.pixels[:rows, :, 1:] = (sky + ((air * 1.06).clip(0, 250) - sky) * veil).clip(0, 255)


def draw_strip(canvas: Canvas, strip: Strip) -> None:
    """Paints a strip in slices, so that the air gets denser with distance."""
    near, far = max(strip.z[0], canvas.camera.nearest_ground * 0.7), strip.z[1]
    if far <= near:
        return
    level = canvas.light.ambient + canvas.light.direct * max(float(canvas.light.sun[1]), 0.0)
    colour = np.multiply(strip.colour, level)
    cuts = [near, far] if canvas.labels_only else np.geomspace(near, far, max(int(8 * np.log(far / near)), 1) + 1)
    for z0, z1 in zip(cuts[:-1][::-1], cuts[1:][::-1]):
        corners = np.array([(strip.x[0], 0, z0), (strip.x[1], 0, z0), (strip.x[1], 0, z1), (strip.x[0], 0, z1)])
        canvas.convex(canvas.camera.project(corners), colour, LABELS[strip.label].id, float(z0 + z1) / 2)


def paint_marking(canvas: Canvas, x: tuple[float, float], z: tuple[float, float]) -> None:
    """Paints a white rectangle on the road."""
    if not canvas.labels_only:
        draw_strip(canvas, Strip(x, z, _PAINT, "road"))


def texture_ground(canvas: Canvas, grain: np.ndarray, joints: float) -> None:
    """Roughens everything below the horizon with noise that lies on the ground; pavements also get joints.

    Args:
        canvas: holds ground only, so far.
        grain: noise square that covers 16 by 16 metres, mirrored beyond.
        joints: distance of the pavement's joints, metres.
    """
    if canvas.labels_only:
        return
    camera = canvas.camera
    top = int(camera.horizon) + 2
    depth = (
        camera.focal * camera.eye / (np.arange(top, camera.height, dtype=np.float32)[:, None] + 0.5 - camera.horizon)
    )
    across = (np.arange(camera.width, dtype=np.float32) + 0.5 - camera.centre) * (depth / camera.focal)
    scale = len(grain) / 16.0
    down = np.tile(np.float32(depth * scale), (1, camera.width))
    field = cv2.remap(grain, np.float32(across * scale), down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    labels = canvas.labels[top:]
    strength = np.zeros(256, dtype=np.float32)
    for name, value in (("road", 0.045), ("sidewalk", 0.05), ("terrain", 0.11)):
        strength[LABELS[name].id] = value
    # Far away, one pixel averages over many grains.
    factor = 1 + field * strength[labels] / (1 + (depth / 25.0) ** 2)
    lines = (labels == LABELS["sidewalk"].id) & (depth < 22)
    lines &= (across / joints % 1 < 0.05 / joints) | (depth / joints % 1 < 0.06 / joints)
    factor[lines] *= 0.9
    canvas.pixels[top:, :, 1:] = (canvas.pixels[top:, :, 1:] * factor[..., None]).clip(0, 255)


def crown_shadow(crown: tuple[float, float, float, float], sun: np.ndarray) -> np.ndarray:
    """The ground outline (N, 2) of x and z that the crown of a tree (x, z, radius, height) shades."""
    x, z, radius, height = crown
    angle = np.arange(16) * np.pi / 8
    ring = radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return ring + np.array([x, z]) - sun[[0, 2]] / max(float(sun[1]), 0.3) * height


def cast_shadows(canvas: Canvas, outlines: list[np.ndarray], darkness: float) -> None:
    """Darkens the ground inside world outlines (N, 2) of x and z; soft-edged, and not added up where they overlap."""
    if canvas.labels_only or darkness <= 0:
        return
    camera = canvas.camera
    top = int(camera.horizon) + 1
    shadow = np.zeros((camera.height - top, camera.width), dtype=np.uint8)
    for outline in outlines:
        points = np.stack([outline[:, 0], np.zeros(len(outline)), np.maximum(outline[:, 1], 1.0)], axis=-1)
        hull = cv2.convexHull((camera.project(points) - [0, top]).clip(-20000, 20000).astype(np.float32))
        cv2.fillConvexPoly(shadow, np.round(hull.reshape(-1, 2) * 16).astype(np.int32), 255, cv2.LINE_8, 4)
    soft = cv2.blur(shadow, (5, 3)).astype(np.float32) / 255
    # Light that the air adds before a distant shadow is not taken away: fade with the ground's depth.
    depth = camera.focal * camera.eye / (np.arange(top, camera.height, dtype=np.float32) + 0.5 - camera.horizon)
    fade = darkness * np.exp(-depth / canvas.light.haze_range)
    factor = 1 - soft * fade[:, None].astype(np.float32)
    ground = canvas.pixels[top:]
    is_ground = ground[..., 0] != LABELS["sky"].id
    factor[~is_ground] = 1
    ground[..., 1:] = ground[..., 1:] * factor[..., None]
