"""Cars in several body styles."""

import numpy as np

from densekit.streets.sprites.mesh import Mesh
from densekit.streets.sprites.panels import (
    GLASS,
    HEAD,
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

# Body styles of cars: length, half width, height, belt line, hood height; cabin from / to and its roof from / to
# (forward as a fraction of the length, front positive).
STYLES = {
    "hatchback": (3.9, 0.86, 1.48, 0.92, 0.80, (-0.47, 0.24), (-0.36, 0.07)),
    "sedan": (4.6, 0.90, 1.44, 0.90, 0.78, (-0.36, 0.20), (-0.20, 0.04)),
    "wagon": (4.7, 0.91, 1.50, 0.92, 0.80, (-0.48, 0.21), (-0.42, 0.05)),
    "suv": (4.5, 0.95, 1.72, 1.05, 0.98, (-0.48, 0.23), (-0.40, 0.08)),
    "van": (4.9, 0.97, 1.95, 1.08, 1.02, (-0.49, 0.34), (-0.47, 0.20)),
}


def car(style: str, paint: Colour, braking: bool) -> Mesh:
    """A car of a body style; its rear lamps are brighter when it brakes."""
    length, half, height, belt, hood, cabin, roof = STYLES[style]
    mesh, end = Mesh(), length / 2
    axles = (-0.31 * length, 0.30 * length)
    tyres(mesh, axles, half, 0.32)
    mesh.piece(1, (0, 0, 0.5))
    nose = [(end, 0.24), (end, hood - 0.18), (end - 0.22, hood), (cabin[1] * length, belt)]
    mesh.prism([*nose, (cabin[0] * length, belt), (-end, belt - 0.12), (-end, 0.28)], half, paint)
    side_panels(mesh, (-end + 0.1, end - 0.1), half, (0.24, 0.34), TRIM)
    for seam in (-0.14, 0.12):
        side_panels(mesh, (seam * length - 0.012, seam * length + 0.012), half, (0.36, belt), times(paint, 0.6))
    wheels(mesh, axles, half, 0.32)
    _ends(mesh, braking, end, half, hood, belt)
    mesh.piece(2, (-0.1 * length, 0, belt + 0.1))
    _cabin(
        mesh, paint, (cabin[0] * length, cabin[1] * length), (roof[0] * length, roof[1] * length), half, belt, height
    )
    return mesh


def _ends(mesh: Mesh, braking: bool, end: float, half: float, hood: float, belt: float) -> None:
    tail: Colour = (60, 60, 255) if braking else TAIL
    for at, lamp, top in ((end, HEAD, hood - 0.2), (-end, tail, belt - 0.16)):
        end_panel(mesh, at, (-half, half), (0.26, 0.42), TRIM)
        for side in (-1, 1):
            lefts = (side * (half - 0.42), side * (half - 0.04))
            end_panel(mesh, at, lefts, (top - 0.17, top), lamp, glow=True)
        end_panel(mesh, at, (-0.26, 0.26), (0.44, 0.55), PLATE)
    end_panel(mesh, end, (-half * 0.45, half * 0.45), (hood - 0.34, hood - 0.22), TRIM)


def _cabin(
    mesh: Mesh,
    paint: Colour,
    foot: tuple[float, float],
    roof: tuple[float, float],
    half: float,
    belt: float,
    height: float,
) -> None:
    low, high = half * 0.97, half * 0.80

    def quad(corner: np.ndarray, shares: tuple[float, float, float, float]) -> np.ndarray:
        # A part of a bilinear patch: shares are (from, to) along its base, then (from, to) upwards.
        a, b, c, d = corner  # base start, base end, top end, top start
        s0, s1, t0, t1 = shares
        return np.array(
            [
                (1 - t) * ((1 - s) * a + s * b) + t * ((1 - s) * d + s * c)
                for s, t in ((s0, t0), (s1, t0), (s1, t1), (s0, t1))
            ]
        )

    for ends in ((foot[1], roof[1]), (foot[0], roof[0])):
        pane = np.array(
            [(ends[0], -low, belt), (ends[0], low, belt), (ends[1], high, height), (ends[1], -high, height)]
        )
        mesh.face(pane, paint)
        mesh.face(quad(pane, (0.07, 0.93, 0.06, 0.88)), GLASS, glow=True)
        mesh.face(quad(pane, (0.12, 0.45, 0.55, 0.86)), times(GLASS, 1.7), glow=True)
    for sign in (-1, 1):
        pane = np.array(
            [
                (foot[0], sign * low, belt),
                (foot[1], sign * low, belt),
                (roof[1], sign * high, height),
                (roof[0], sign * high, height),
            ]
        )
        mesh.face(pane, paint)
        for shares in ((0.06, 0.36, 0.1, 0.86), (0.40, 0.64, 0.1, 0.86), (0.68, 0.93, 0.1, 0.86)):
            mesh.face(quad(pane, shares), GLASS, glow=True)
    mesh.face(
        [(roof[0], -high, height), (roof[1], -high, height), (roof[1], high, height), (roof[0], high, height)],
        paint,
    )
