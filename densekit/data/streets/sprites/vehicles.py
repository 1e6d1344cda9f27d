"""Cars, trucks and buses as small meshes with windows, lamps, wheels and trim."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from densekit.data.streets.sprites.mesh import Mesh
from densekit.data.streets.world import Canvas, Colour

_GLASS: Colour = (82, 70, 58)
_TYRE: Colour = (34, 32, 32)
_RIM: Colour = (150, 148, 146)
_TRIM: Colour = (52, 50, 48)
_TAIL: Colour = (40, 36, 205)
_HEAD: Colour = (225, 240, 248)
_PLATE: Colour = (205, 215, 220)
_LIFT = 0.004  # decals stand this far off their face, so that they keep its direction

# (weight, colour) in BGR: the paints of a usual street.
_CAR_PAINTS = (
    (5, (225, 225, 222)),
    (5, (60, 56, 54)),
    (5, (165, 162, 158)),
    (3, (112, 108, 104)),
    (3, (150, 84, 40)),
    (3, (44, 40, 176)),
    (1, (60, 110, 52)),
    (1, (70, 190, 230)),
    (1, (150, 190, 205)),
    (1, (160, 130, 50)),
)
_BUS_PAINTS = ((2, (50, 190, 240)), (2, (48, 44, 200)), (1, (190, 120, 40)), (1, (90, 160, 70)))
_CAB_PAINTS = ((1, (60, 60, 190)), (1, (170, 100, 40)), (1, (225, 225, 225)), (1, (70, 140, 60)), (1, (40, 120, 220)))
_CARGO_PAINTS = ((3, (228, 230, 230)), (1, (150, 170, 180)), (1, (110, 150, 200)), (1, (140, 150, 110)))

# Body styles of cars: length, half width, height, belt line, hood height; cabin from / to and its roof from / to
# (forward as a fraction of the length, front positive).
_STYLES = {
    "hatchback": (3.9, 0.86, 1.48, 0.92, 0.80, (-0.47, 0.24), (-0.36, 0.07)),
    "sedan": (4.6, 0.90, 1.44, 0.90, 0.78, (-0.36, 0.20), (-0.20, 0.04)),
    "wagon": (4.7, 0.91, 1.50, 0.92, 0.80, (-0.48, 0.21), (-0.42, 0.05)),
    "suv": (4.5, 0.95, 1.72, 1.05, 0.98, (-0.48, 0.23), (-0.40, 0.08)),
    "van": (4.9, 0.97, 1.95, 1.08, 1.02, (-0.49, 0.34), (-0.47, 0.20)),
}


def _pick(rng: np.random.Generator, paints: tuple[tuple[int, Colour], ...]) -> Colour:
    weights = np.array([weight for weight, _ in paints], dtype=np.float64)
    base = np.array(paints[int(rng.choice(len(paints), p=weights / weights.sum()))][1], dtype=np.float64)
    b, g, r = (base + rng.normal(0, 7, 3)).clip(25, 240)
    return (b, g, r)


def _times(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def _end_panel(
    mesh: Mesh, at: float, lefts: tuple[float, float], ups: tuple[float, float], colour: Colour, glow: bool = False
) -> None:
    """A rectangle that looks forward or back, at forward position ``at``."""
    at += np.sign(at) * _LIFT
    mesh.face(
        [(at, lefts[0], ups[0]), (at, lefts[1], ups[0]), (at, lefts[1], ups[1]), (at, lefts[0], ups[1])], colour, glow
    )


def _side_panels(
    mesh: Mesh, forwards: tuple[float, float], half: float, ups: tuple[float, float], colour: Colour, glow: bool = False
) -> None:
    """A rectangle that looks to the side, on both sides."""
    for left in (-half - _LIFT, half + _LIFT):
        corners = [
            (forwards[0], left, ups[0]),
            (forwards[1], left, ups[0]),
            (forwards[1], left, ups[1]),
            (forwards[0], left, ups[1]),
        ]
        mesh.face(corners, colour, glow)


def _tyres(mesh: Mesh, axles: tuple[float, ...], half: float, radius: float) -> None:
    """What is seen of the tyres from the front and from behind: dark boxes under the body."""
    for axle in axles:
        for left in (-half + 0.13, half - 0.13):
            mesh.piece(0, (axle, left, radius))
            block = [
                (axle - radius * 0.7, 0.0),
                (axle + radius * 0.7, 0.0),
                (axle + radius, radius),
                (axle - radius, radius),
            ]
            mesh.prism(block, 0.11, _TYRE, middle=left)


def _wheels(mesh: Mesh, axles: tuple[float, ...], half: float, radius: float) -> None:
    """Wheel arch, tyre and rim on both sides of the current piece."""
    for axle in axles:
        for left in (-half - _LIFT, half + _LIFT):
            mesh.disc(axle, left, radius, radius * 1.16, _TRIM)
            mesh.disc(axle, left, radius, radius, _TYRE)
            mesh.disc(axle, left, radius, radius * 0.62, _RIM)
            mesh.disc(axle, left, radius, radius * 0.2, _TYRE)


@dataclass(frozen=True)
class Vehicle:
    """A car, truck or bus of a style and paint; ``size`` is (length, width, height) in metres."""

    kind: str
    style: str
    paint: Colour
    second: Colour
    braking: bool

    @classmethod
    def sample(cls, rng: np.random.Generator, kind: str) -> "Vehicle":
        """Draws the looks of a vehicle of kind car, truck or bus."""
        if kind == "car":
            style, paint, second = str(rng.choice(list(_STYLES))), _pick(rng, _CAR_PAINTS), _TRIM
        elif kind == "truck":
            style, paint, second = (
                str(rng.choice(["box", "box", "tipper"])),
                _pick(rng, _CAB_PAINTS),
                _pick(rng, _CARGO_PAINTS),
            )
        else:
            paint = _pick(rng, _BUS_PAINTS)
            style, second = "city", paint if rng.random() < 0.5 else (220.0, 222.0, 222.0)
        return cls(kind, style, paint, second, bool(rng.random() < 0.3))

    @property
    def size(self) -> tuple[float, float, float]:
        if self.kind == "car":
            length, half, height = _STYLES[self.style][:3]
            return length, 2 * half, height
        return (7.4, 2.4, 3.2) if self.kind == "truck" else (10.5, 2.5, 3.05)

    @cached_property
    def mesh(self) -> Mesh:
        return {"car": self._car, "truck": self._truck, "bus": self._bus}[self.kind]()

    def draw(self, canvas: Canvas, position: np.ndarray, yaw: float, label: int) -> None:
        self.mesh.draw(canvas, position, yaw, label)

    def _car(self) -> Mesh:
        length, half, height, belt, hood, cabin, roof = _STYLES[self.style]
        mesh, end = Mesh(), length / 2
        axles = (-0.31 * length, 0.30 * length)
        _tyres(mesh, axles, half, 0.32)
        mesh.piece(1, (0, 0, 0.5))
        nose = [(end, 0.24), (end, hood - 0.18), (end - 0.22, hood), (cabin[1] * length, belt)]
        mesh.prism([*nose, (cabin[0] * length, belt), (-end, belt - 0.12), (-end, 0.28)], half, self.paint)
        _side_panels(mesh, (-end + 0.1, end - 0.1), half, (0.24, 0.34), _TRIM)
        for seam in (-0.14, 0.12):
            _side_panels(
                mesh, (seam * length - 0.012, seam * length + 0.012), half, (0.36, belt), _times(self.paint, 0.6)
            )
        _wheels(mesh, axles, half, 0.32)
        self._car_ends(mesh, end, half, hood, belt)
        mesh.piece(2, (-0.1 * length, 0, belt + 0.1))
        self._cabin(
            mesh, (cabin[0] * length, cabin[1] * length), (roof[0] * length, roof[1] * length), half, belt, height
        )
        return mesh

    def _car_ends(self, mesh: Mesh, end: float, half: float, hood: float, belt: float) -> None:
        tail: Colour = (60, 60, 255) if self.braking else _TAIL
        for at, lamp, top in ((end, _HEAD, hood - 0.2), (-end, tail, belt - 0.16)):
            _end_panel(mesh, at, (-half, half), (0.26, 0.42), _TRIM)
            for side in (-1, 1):
                lefts = (side * (half - 0.42), side * (half - 0.04))
                _end_panel(mesh, at, lefts, (top - 0.17, top), lamp, glow=True)
            _end_panel(mesh, at, (-0.26, 0.26), (0.44, 0.55), _PLATE)
        _end_panel(mesh, end, (-half * 0.45, half * 0.45), (hood - 0.34, hood - 0.22), _TRIM)

    def _cabin(
        self, mesh: Mesh, foot: tuple[float, float], roof: tuple[float, float], half: float, belt: float, height: float
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
            mesh.face(pane, self.paint)
            mesh.face(quad(pane, (0.07, 0.93, 0.06, 0.88)), _GLASS, glow=True)
            mesh.face(quad(pane, (0.12, 0.45, 0.55, 0.86)), _times(_GLASS, 1.7), glow=True)
        for sign in (-1, 1):
            pane = np.array(
                [
                    (foot[0], sign * low, belt),
                    (foot[1], sign * low, belt),
                    (roof[1], sign * high, height),
                    (roof[0], sign * high, height),
                ]
            )
            mesh.face(pane, self.paint)
            for shares in ((0.06, 0.36, 0.1, 0.86), (0.40, 0.64, 0.1, 0.86), (0.68, 0.93, 0.1, 0.86)):
                mesh.face(quad(pane, shares), _GLASS, glow=True)
        mesh.face(
            [(roof[0], -high, height), (roof[1], -high, height), (roof[1], high, height), (roof[0], high, height)],
            self.paint,
        )

    def _truck(self) -> Mesh:
        length, width, height = self.size
        mesh, end, half = Mesh(), length / 2, width / 2
        split = end - 2.0  # the cab is the part before it
        axles = (-end + 1.0, -end + 2.0, end - 1.0)
        _tyres(mesh, axles, half, 0.48)
        mesh.piece(0, (0, 0, 0.7))
        mesh.prism([(-end, 0.55), (end - 0.1, 0.55), (end - 0.1, 0.95), (-end, 0.95)], half - 0.05, _TRIM)
        _wheels(mesh, axles, half - 0.02, 0.48)
        _end_panel(mesh, -end, (-half, half), (0.6, 0.8), (60, 60, 70))
        for side in (-1, 1):
            _end_panel(mesh, -end, (side * (half - 0.5), side * (half - 0.1)), (0.62, 0.8), _TAIL, glow=True)
        top = height if self.style == "box" else 2.15
        mesh.piece(1, ((-end + split) / 2, 0, 2))
        mesh.prism([(-end, 0.95), (split - 0.15, 0.95), (split - 0.15, top), (-end, top)], half, self.second)
        self._cargo_trim(mesh, -end, split, half, top)
        mesh.piece(1, (end - 1, 0, 1.6))
        mesh.prism([(split, 0.6), (end, 0.6), (end, 1.5), (end - 0.35, 2.65), (split, 2.65)], half - 0.06, self.paint)
        slope = [(end + _LIFT, 1.55), (end - 0.30, 2.50)]
        mesh.face(
            [
                (slope[0][0], -1.0, slope[0][1]),
                (slope[0][0], 1.0, slope[0][1]),
                (slope[1][0], 0.98, slope[1][1]),
                (slope[1][0], -0.98, slope[1][1]),
            ],
            _GLASS,
            glow=True,
        )
        _side_panels(mesh, (split + 0.7, end - 0.45), half - 0.06, (1.5, 2.35), _GLASS, glow=True)
        _end_panel(mesh, end, (-0.7, 0.7), (0.95, 1.4), _TRIM)
        _end_panel(mesh, end, (-half + 0.06, half - 0.06), (0.6, 0.9), _times(self.paint, 0.6))
        for side in (-1, 1):
            _end_panel(mesh, end, (side * 0.75, side * 1.1), (0.65, 0.88), _HEAD, glow=True)
        return mesh

    def _cargo_trim(self, mesh: Mesh, back: float, front: float, half: float, top: float) -> None:
        dark = _times(self.second, 0.72)
        if self.style == "box":
            _side_panels(mesh, (back + 0.6, front - 0.8), half, (1.7, 2.3), self.paint)
            _end_panel(mesh, back, (-0.02, 0.02), (0.95, top), dark)
            for side in (-1, 1):
                _end_panel(mesh, back, (side * 0.35, side * 0.40), (1.0, top - 0.1), dark)
            for ups in ((0.95, 1.05), (top - 0.12, top)):
                _end_panel(mesh, back, (-half, half), ups, dark)
                _side_panels(mesh, (back, front - 0.15), half, ups, dark)
            return
        for i in range(6):
            at = back + 0.2 + i * (front - back - 0.6) / 5
            _side_panels(mesh, (at, at + 0.1), half, (0.95, top), dark)
        _end_panel(mesh, back, (-half + 0.15, half - 0.15), (1.1, top - 0.15), dark)

    def _bus(self) -> Mesh:
        length, width, height = self.size
        mesh, end, half = Mesh(), length / 2, width / 2
        axles = (-end + 2.8, end - 2.6)
        _tyres(mesh, axles, half, 0.48)
        mesh.piece(1, (0, 0, 1.5))
        profile = [(-end, 0.35), (end, 0.35), (end, 1.2), (end - 0.15, height), (-end, height)]
        mesh.prism(profile, half, self.paint)
        if self.second != self.paint:
            _side_panels(mesh, (-end, end - 0.03), half, (2.45, height), self.second)
            _end_panel(mesh, -end, (-half, half), (2.45, height), self.second)
        _side_panels(mesh, (-end, end), half, (0.35, 0.5), _TRIM)
        _side_panels(mesh, (-end + 0.3, end - 0.35), half, (1.35, 2.4), _GLASS, glow=True)
        for i in range(1, 7):
            at = -end + 0.3 + i * (length - 0.65) / 7
            _side_panels(mesh, (at - 0.05, at + 0.05), half, (1.35, 2.4), _times(self.paint, 0.8))
        for door in (end - 1.6, -0.6):
            _side_panels(mesh, (door, door + 1.1), half, (0.5, 2.35), _times(_GLASS, 1.25), glow=True)
            _side_panels(mesh, (door + 0.52, door + 0.58), half, (0.5, 2.35), _TRIM)
        _wheels(mesh, axles, half, 0.48)
        self._bus_ends(mesh, end, half, height)
        return mesh

    def _bus_ends(self, mesh: Mesh, end: float, half: float, height: float) -> None:
        screen = [
            (end + _LIFT, -half + 0.1, 1.25),
            (end + _LIFT, half - 0.1, 1.25),
            (end - 0.09, half - 0.12, 2.5),
            (end - 0.09, -half + 0.12, 2.5),
        ]
        mesh.face(screen, _GLASS, glow=True)
        mesh.face(
            [(end - 0.09, -0.9, 2.55), (end - 0.09, 0.9, 2.55), (end - 0.13, 0.9, 2.9), (end - 0.13, -0.9, 2.9)],
            (30, 30, 30),
        )
        mesh.face(
            [(end - 0.09, -0.6, 2.64), (end - 0.09, 0.6, 2.64), (end - 0.12, 0.6, 2.8), (end - 0.12, -0.6, 2.8)],
            (40, 190, 250),
            glow=True,
        )
        _end_panel(mesh, -end, (-half + 0.25, half - 0.25), (1.6, 2.5), _GLASS, glow=True)
        _end_panel(mesh, -end, (-half + 0.35, half - 0.35), (0.7, 1.2), _times(self.paint, 0.7))
        tail: Colour = (60, 60, 255) if self.braking else _TAIL
        for at, lamp in ((end, _HEAD), (-end, tail)):
            _end_panel(mesh, at, (-half, half), (0.36, 0.55), _TRIM)
            _end_panel(mesh, at, (-0.26, 0.26), (0.56, 0.68), _PLATE)
            for side in (-1, 1):
                _end_panel(mesh, at, (side * (half - 0.45), side * (half - 0.08)), (0.68, 0.92), lamp, glow=True)
