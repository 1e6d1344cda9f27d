"""House fronts along and across the street: walls, floors of windows, shops, cornices and roofs."""

from dataclasses import dataclass

import numpy as np

from densekit.streets.labels import LABELS
from densekit.streets.world import Canvas, Colour

_BUILDING = LABELS["building"].id
_WALLS: tuple[Colour, ...] = (
    (150, 175, 190),
    (130, 160, 200),
    (110, 130, 165),
    (175, 190, 200),
    (95, 110, 150),
    (160, 170, 172),
    (120, 170, 190),
    (185, 178, 165),
    (88, 96, 120),
)
_ROOFS: tuple[Colour, ...] = ((60, 70, 120), (70, 72, 78), (50, 60, 95), (95, 92, 90))
_SHOPS: tuple[Colour, ...] = ((50, 50, 150), (110, 70, 40), (50, 95, 55), (60, 60, 64), (60, 140, 190), (120, 110, 100))


@dataclass(frozen=True)
class Building:
    """A house whose front is a rectangle from ``start`` to ``end`` (x, z on the ground) and ``height`` metres tall."""

    start: tuple[float, float]
    end: tuple[float, float]
    height: float
    wall: Colour
    roof: Colour
    shop: Colour | None
    floor: float  # height of a storey
    bay: float  # distance between windows
    window: tuple[float, float]  # width and height
    pitched: bool
    curtains: np.ndarray  # (32,) brightness of window panes, repeated

    @classmethod
    def sample(cls, rng: np.random.Generator, start: tuple[float, float], end: tuple[float, float]) -> "Building":
        def pick(colours: tuple[Colour, ...]) -> Colour:
            b, g, r = (
                np.array(colours[int(rng.integers(len(colours)))]) + rng.normal(0, 12) + rng.normal(0, 5, 3)
            ).clip(30, 225)
            return (b, g, r)

        floor = float(rng.uniform(2.9, 3.5))
        return cls(
            start=start,
            end=end,
            height=floor * int(rng.integers(2, 6)) + 1.2,
            wall=pick(_WALLS),
            roof=pick(_ROOFS),
            shop=pick(_SHOPS) if rng.random() < 0.5 else None,
            floor=floor,
            bay=float(rng.uniform(2.0, 3.2)),
            window=(float(rng.uniform(0.9, 1.5)), float(rng.uniform(1.3, 1.9))),
            pitched=bool(rng.random() < 0.6),
            curtains=rng.uniform(0.55, 1.5, 32) ** 1.5,
        )

    @property
    def farthest(self) -> float:
        return max(self.start[1], self.end[1])

    def draw(self, canvas: Canvas) -> None:
        ground = np.array([self.start, self.end])
        span = ground[1] - ground[0]
        length = float(np.linalg.norm(span))
        outwards = np.array([span[1], 0.0, -span[0]]) / length
        eye = np.array([0.0, canvas.camera.eye, 0.0])
        middle = np.array([ground[:, 0].mean(), 0.0, ground[:, 1].mean()])
        if outwards @ (eye - middle) < 0:
            outwards = -outwards
        shade = float(canvas.light.shade(outwards))
        # A front along the street spans many depths, so the air is taken at its nearer third.
        depth = float(ground[:, 1].min() + 0.33 * np.ptp(ground[:, 1]))
        self._body(canvas, ground, outwards, shade, depth)
        if canvas.labels_only:
            return
        self._windows(canvas, ground, length, shade, depth)
        self._street_level(canvas, ground, length, shade, depth)

    def _quads(self, canvas: Canvas, ground: np.ndarray, length: float, boxes: np.ndarray) -> np.ndarray:
        """Canvas corners (N, 4, 2) of boxes (N, 4) on the front: along from / to, up from / to, metres."""
        along = boxes[:, [0, 1, 1, 0]] / length
        plan = ground[0] + along[..., None] * (ground[1] - ground[0])
        return canvas.camera.project(np.stack([plan[..., 0], boxes[:, [2, 2, 3, 3]], plan[..., 1]], axis=-1))

    def _body(self, canvas: Canvas, ground: np.ndarray, outwards: np.ndarray, shade: float, depth: float) -> None:
        near = int(ground[1, 1] < ground[0, 1])
        back = ground - 9.0 * outwards[[0, 2]]
        flank = np.array([ground[near], back[near]])
        for plan, factor in ((flank, 0.82 * canvas.light.level), (ground, shade)):
            corners = [(plan[i, 0], up, plan[i, 1]) for i, up in ((0, 0), (1, 0), (1, self.height), (0, self.height))]
            canvas.convex(canvas.camera.project(np.array(corners)), np.multiply(self.wall, factor), _BUILDING, depth)
        if self.pitched:
            ridge = ground - 3.0 * outwards[[0, 2]]
            rise = (self.height + 3.4) * np.ones(2)
            corners = [(ground[0, 0], self.height, ground[0, 1]), (ground[1, 0], self.height, ground[1, 1])]
            corners += [(ridge[1, 0], rise[1], ridge[1, 1]), (ridge[0, 0], rise[0], ridge[0, 1])]
            points = np.array(corners)
            tilt = np.array([0.75, 0.66, 0.75]) * (outwards + np.array([0, 1.0, 0]))
            if (points[0] - [0, canvas.camera.eye, 0]) @ tilt < 0:
                colour = np.multiply(self.roof, float(canvas.light.shade(tilt)))
                canvas.convex(canvas.camera.project(points), colour, _BUILDING, depth)

    def _windows(self, canvas: Canvas, ground: np.ndarray, length: float, shade: float, depth: float) -> None:
        width, tall = self.window
        if canvas.camera.scale(depth) * tall < 3:  # no more than a texture from here
            return
        count = max(int(length / self.bay), 1)
        along = (np.arange(count) + 0.5) * length / count
        ups = (
            np.arange(1 if self.shop else 0, max(int((self.height - 1.0) / self.floor), 1)) * self.floor
            + 0.32 * self.floor
        )
        grid = np.stack(np.meshgrid(along, ups), axis=-1).reshape(-1, 2)
        if not len(grid):
            return
        x, y = grid[:, 0], grid[:, 1]
        layers = (
            (np.stack([x - width / 2 - 0.12, x + width / 2 + 0.12, y - 0.12, y + tall + 0.12], axis=-1), 1.18, None),
            (np.stack([x - width / 2, x + width / 2, y, y + tall], axis=-1), 1.0, (74, 64, 54)),
            (np.stack([x - 0.03, x + 0.03, y, y + tall], axis=-1), 1.1, None),
        )
        curtains = np.resize(self.curtains, len(grid))[:, None] * canvas.light.level
        for boxes, factor, pane in layers:
            tones = np.full((len(grid), 1), factor * shade) if pane is None else factor * curtains
            colours = np.multiply(pane or self.wall, tones)
            canvas.convexes(self._quads(canvas, ground, length, boxes), colours, _BUILDING, depth)

    def _street_level(self, canvas: Canvas, ground: np.ndarray, length: float, shade: float, depth: float) -> None:
        edge = self.height
        boxes: list[tuple[tuple[float, ...], np.ndarray]] = [
            ((0, length, edge - 0.35, edge), np.multiply(self.wall, 0.8 * shade))
        ]
        if self.shop is None:
            boxes.append(((0, length, 0, 0.7), np.multiply(self.wall, 0.7 * shade)))
            door = length * 0.37
            boxes.append(((door, door + 1.1, 0, 2.2), np.multiply(self.roof, 0.9 * shade)))
        else:
            boxes.append(((0, length, self.floor - 0.75, self.floor - 0.1), np.multiply(self.shop, shade)))
            panes = max(int(length / 3.0), 1)
            for i in range(panes):
                a, b = (i + 0.1) * length / panes, (i + 0.9) * length / panes
                boxes.append(
                    (
                        (a, b, 0.35, self.floor - 0.8),
                        np.multiply((88, 82, 74), self.curtains[i % 32] * canvas.light.level),
                    )
                )
            boxes.append(((length * 0.45, length * 0.45 + 1.2, 0, 2.3), np.multiply(self.shop, 0.7 * shade)))
        quads = self._quads(canvas, ground, length, np.array([box for box, _ in boxes], dtype=np.float64))
        canvas.convexes(quads, np.array([colour for _, colour in boxes]), _BUILDING, depth)
