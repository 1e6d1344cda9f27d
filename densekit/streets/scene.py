"""Draws the lots for a scene: camera, light, street, surroundings, actors, and the faults of lens and sensor.

The world is a street seen along its axis. Positions are chosen on the ground, in metres; how large things appear and
what hides what follows from the camera.
"""

from dataclasses import dataclass

import numpy as np

from densekit.streets.actors import Actor
from densekit.streets.cast import sample_actors
from densekit.streets.sprites.ground import Strip
from densekit.streets.street import Range, markings, sample_street, surfaces
from densekit.streets.surroundings import Static, sample_surroundings
from densekit.streets.world import SUPERSAMPLING, Camera, Colour, Light, pick_colour

_ZENITHS: tuple[Colour, ...] = ((205, 150, 96), (215, 175, 130), (195, 165, 140))
_AIRS: tuple[Colour, ...] = ((228, 220, 210), (215, 212, 208), (205, 215, 228), (232, 226, 222))


@dataclass(frozen=True)
class Grade:
    """Effects of lens and sensor on the picture."""

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
    zenith: Colour
    cover: float  # of clouds
    strips: tuple[Strip, ...]
    markings: tuple[tuple[Range, Range], ...]
    joints: float
    statics: tuple[Static, ...]
    actors: tuple[Actor, ...]
    grade: Grade


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
        haze=np.array(pick_colour(rng, _AIRS)),
        haze_range=float(rng.uniform(70, 130)) if rng.random() < 0.25 else float(rng.uniform(160, 420)),
    )


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
    camera, light, street = _camera(rng, width, height), _light(rng), sample_street(rng)
    return Scene(
        camera=camera,
        light=light,
        zenith=pick_colour(rng, _ZENITHS),
        cover=float(rng.uniform(0.1, 0.9)),
        strips=surfaces(rng, street),
        markings=markings(rng, street),
        joints=float(rng.uniform(0.5, 1.2)),
        statics=sample_surroundings(rng, street),
        actors=sample_actors(rng, camera, street),
        grade=_grade(rng),
    )
