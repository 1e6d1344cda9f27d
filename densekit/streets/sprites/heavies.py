"""Trucks and buses."""

from densekit.streets.sprites.mesh import Mesh
from densekit.streets.sprites.panels import (
    GLASS,
    HEAD,
    LIFT,
    PLATE,
    TAIL,
    TRIM,
    end_panel,
    side_panels,
    times,
    tyres,
    wheels,
)
from densekit.streets.world import Colour

TRUCK_SIZE = (7.4, 2.4, 3.2)  # length, width, height
BUS_SIZE = (10.5, 2.5, 3.05)


def truck(style: str, paint: Colour, second: Colour) -> Mesh:
    """A truck with a cab in ``paint`` and a ``second`` colour for its box or tipper."""
    length, width, height = TRUCK_SIZE
    mesh, end, half = Mesh(), length / 2, width / 2
    split = end - 2.0  # the cab is the part before it
    axles = (-end + 1.0, -end + 2.0, end - 1.0)
    tyres(mesh, axles, half, 0.48)
    mesh.piece(0, (0, 0, 0.7))
    mesh.prism([(-end, 0.55), (end - 0.1, 0.55), (end - 0.1, 0.95), (-end, 0.95)], half - 0.05, TRIM)
    wheels(mesh, axles, half - 0.02, 0.48)
    end_panel(mesh, -end, (-half, half), (0.6, 0.8), (60, 60, 70))
    for side in (-1, 1):
        end_panel(mesh, -end, (side * (half - 0.5), side * (half - 0.1)), (0.62, 0.8), TAIL, glow=True)
    top = height if style == "box" else 2.15
    mesh.piece(1, ((-end + split) / 2, 0, 2))
    mesh.prism([(-end, 0.95), (split - 0.15, 0.95), (split - 0.15, top), (-end, top)], half, second)
    _cargo_trim(mesh, style, paint, second, -end, split, half, top)
    mesh.piece(1, (end - 1, 0, 1.6))
    mesh.prism([(split, 0.6), (end, 0.6), (end, 1.5), (end - 0.35, 2.65), (split, 2.65)], half - 0.06, paint)
    slope = [(end + LIFT, 1.55), (end - 0.30, 2.50)]
    mesh.face(
        [
            (slope[0][0], -1.0, slope[0][1]),
            (slope[0][0], 1.0, slope[0][1]),
            (slope[1][0], 0.98, slope[1][1]),
            (slope[1][0], -0.98, slope[1][1]),
        ],
        GLASS,
        glow=True,
    )
    side_panels(mesh, (split + 0.7, end - 0.45), half - 0.06, (1.5, 2.35), GLASS, glow=True)
    end_panel(mesh, end, (-0.7, 0.7), (0.95, 1.4), TRIM)
    end_panel(mesh, end, (-half + 0.06, half - 0.06), (0.6, 0.9), times(paint, 0.6))
    for side in (-1, 1):
        end_panel(mesh, end, (side * 0.75, side * 1.1), (0.65, 0.88), HEAD, glow=True)
    return mesh


def _cargo_trim(
    mesh: Mesh, style: str, paint: Colour, second: Colour, back: float, front: float, half: float, top: float
) -> None:
    dark = times(second, 0.72)
    if style == "box":
        side_panels(mesh, (back + 0.6, front - 0.8), half, (1.7, 2.3), paint)
        end_panel(mesh, back, (-0.02, 0.02), (0.95, top), dark)
        for side in (-1, 1):
            end_panel(mesh, back, (side * 0.35, side * 0.40), (1.0, top - 0.1), dark)
        for ups in ((0.95, 1.05), (top - 0.12, top)):
            end_panel(mesh, back, (-half, half), ups, dark)
            side_panels(mesh, (back, front - 0.15), half, ups, dark)
        return
    for i in range(6):
        at = back + 0.2 + i * (front - back - 0.6) / 5
        side_panels(mesh, (at, at + 0.1), half, (0.95, top), dark)
    end_panel(mesh, back, (-half + 0.15, half - 0.15), (1.1, top - 0.15), dark)


def bus(paint: Colour, second: Colour, braking: bool) -> Mesh:
    """A city bus whose roof has the ``second`` colour."""
    length, width, height = BUS_SIZE
    mesh, end, half = Mesh(), length / 2, width / 2
    axles = (-end + 2.8, end - 2.6)
    tyres(mesh, axles, half, 0.48)
    mesh.piece(1, (0, 0, 1.5))
    profile = [(-end, 0.35), (end, 0.35), (end, 1.2), (end - 0.15, height), (-end, height)]
    mesh.prism(profile, half, paint)
    if second != paint:
        side_panels(mesh, (-end, end - 0.03), half, (2.45, height), second)
        end_panel(mesh, -end, (-half, half), (2.45, height), second)
    side_panels(mesh, (-end, end), half, (0.35, 0.5), TRIM)
    side_panels(mesh, (-end + 0.3, end - 0.35), half, (1.35, 2.4), GLASS, glow=True)
    for i in range(1, 7):
        at = -end + 0.3 + i * (length - 0.65) / 7
        side_panels(mesh, (at - 0.05, at + 0.05), half, (1.35, 2.4), times(paint, 0.8))
    for door in (end - 1.6, -0.6):
        side_panels(mesh, (door, door + 1.1), half, (0.5, 2.35), times(GLASS, 1.25), glow=True)
        side_panels(mesh, (door + 0.52, door + 0.58), half, (0.5, 2.35), TRIM)
    wheels(mesh, axles, half, 0.48)
    _bus_ends(mesh, paint, braking, end, half, height)
    return mesh


def _bus_ends(mesh: Mesh, paint: Colour, braking: bool, end: float, half: float, height: float) -> None:
    screen = [
        (end + LIFT, -half + 0.1, 1.25),
        (end + LIFT, half - 0.1, 1.25),
        (end - 0.09, half - 0.12, 2.5),
        (end - 0.09, -half + 0.12, 2.5),
    ]
    mesh.face(screen, GLASS, glow=True)
    mesh.face(
        [(end - 0.09, -0.9, 2.55), (end - 0.09, 0.9, 2.55), (end - 0.13, 0.9, 2.9), (end - 0.13, -0.9, 2.9)],
        (30, 30, 30),
    )
    mesh.face(
        [(end - 0.09, -0.6, 2.64), (end - 0.09, 0.6, 2.64), (end - 0.12, 0.6, 2.8), (end - 0.12, -0.6, 2.8)],
        (40, 190, 250),
        glow=True,
    )
    end_panel(mesh, -end, (-half + 0.25, half - 0.25), (1.6, 2.5), GLASS, glow=True)
    end_panel(mesh, -end, (-half + 0.35, half - 0.35), (0.7, 1.2), times(paint, 0.7))
    tail: Colour = (60, 60, 255) if braking else TAIL
    for at, lamp in ((end, HEAD), (-end, tail)):
        end_panel(mesh, at, (-half, half), (0.36, 0.55), TRIM)
        end_panel(mesh, at, (-0.26, 0.26), (0.56, 0.68), PLATE)
        for side in (-1, 1):
            end_panel(mesh, at, (side * (half - 0.45), side * (half - 0.08)), (0.68, 0.92), lamp, glow=True)
