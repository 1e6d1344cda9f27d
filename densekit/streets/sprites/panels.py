"""Parts of vehicles: panels, lamps, tyres and wheels on a mesh."""

import numpy as np

from densekit.streets.sprites.mesh import Mesh
from densekit.streets.world import Colour

GLASS: Colour = (82, 70, 58)
TYRE: Colour = (34, 32, 32)
RIM: Colour = (150, 148, 146)
TRIM: Colour = (52, 50, 48)
TAIL: Colour = (40, 36, 205)
HEAD: Colour = (225, 240, 248)
PLATE: Colour = (205, 215, 220)
LIFT = 0.004  # decals stand this far off their face, so that they keep its direction


def times(colour: Colour, factor: float) -> Colour:
    """A colour made darker or brighter."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def end_panel(
    mesh: Mesh, at: float, lefts: tuple[float, float], ups: tuple[float, float], colour: Colour, glow: bool = False
) -> None:
    """A rectangle that looks forward or back, at forward position ``at``."""
    at += np.sign(at) * LIFT
    mesh.face(
        [(at, lefts[0], ups[0]), (at, lefts[1], ups[0]), (at, lefts[1], ups[1]), (at, lefts[0], ups[1])], colour, glow
    )


def side_panels(
    mesh: Mesh, forwards: tuple[float, float], half: float, ups: tuple[float, float], colour: Colour, glow: bool = False
) -> None:
    """A rectangle that looks to the side, on both sides."""
    for left in (-half - LIFT, half + LIFT):
        corners = [
            (forwards[0], left, ups[0]),
            (forwards[1], left, ups[0]),
            (forwards[1], left, ups[1]),
            (forwards[0], left, ups[1]),
        ]
        mesh.face(corners, colour, glow)


def tyres(mesh: Mesh, axles: tuple[float, ...], half: float, radius: float) -> None:
    """Adds the tyres as seen from the front and from behind: dark boxes under the body."""
    for axle in axles:
        for left in (-half + 0.13, half - 0.13):
            mesh.piece(0, (axle, left, radius))
            block = [
                (axle - radius * 0.7, 0.0),
                (axle + radius * 0.7, 0.0),
                (axle + radius, radius),
                (axle - radius, radius),
            ]
            mesh.prism(block, 0.11, TYRE, middle=left)


def wheels(mesh: Mesh, axles: tuple[float, ...], half: float, radius: float) -> None:
    """Wheel arch, tyre and rim on both sides of the current piece."""
    for axle in axles:
        for left in (-half - LIFT, half + LIFT):
            mesh.disc(axle, left, radius, radius * 1.16, TRIM)
            mesh.disc(axle, left, radius, radius, TYRE)
            mesh.disc(axle, left, radius, radius * 0.62, RIM)
            mesh.disc(axle, left, radius, radius * 0.2, TYRE)
