"""Trees, bushes and hedges: trunks and clumps of leaves, all labelled vegetation."""

from dataclasses import dataclass

import numpy as np

from densekit.streets.labels import LABELS
from densekit.streets.world import Canvas, Colour, hull_of_discs

_VEGETATION = LABELS["vegetation"].id
_BARK: Colour = (52, 66, 84)
_GREENS: tuple[Colour, ...] = ((44, 96, 62), (40, 84, 48), (52, 118, 92), (38, 100, 110), (60, 104, 56))


@dataclass(frozen=True)
class Plant:
    """A crown of leaves over a trunk; a bush is a plant without a trunk.

    ``clumps`` (N, 4): x, y, z offsets from the foot and radius, metres; ``leaves`` (N * M, 3): x and y within each
    clump, as shares of its radius, and a brightness in [-1, 1].
    """

    green: Colour
    trunk: float  # radius, 0 for bushes
    clumps: np.ndarray
    leaves: np.ndarray

    @classmethod
    def tree(cls, rng: np.random.Generator) -> "Plant":
        height, spread = rng.uniform(4.5, 9.5), rng.uniform(1.2, 2.3)
        count = int(rng.integers(7, 12))
        middle = height * 0.68
        turn, out = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0, 1, count)) * spread
        up = middle + rng.uniform(-0.5, 1.0, count) * (height - middle) * 0.8
        clumps = np.stack(
            [out * np.cos(turn), up, out * np.sin(turn) * 0.5, rng.uniform(0.5, 0.8, count) * spread], axis=-1
        )
        return cls(_green(rng), float(rng.uniform(0.10, 0.22)), clumps, _leaves(rng, count, 26))

    @classmethod
    def hedge(cls, rng: np.random.Generator, length: float) -> "Plant":
        """A row of bushes of ``length`` metres along z."""
        count = max(int(length / 0.8), 2)
        size = rng.uniform(0.5, 0.9)
        z = np.linspace(-length / 2, length / 2, count)
        radius = size * rng.uniform(0.75, 1.15, count)
        clumps = np.stack([rng.normal(0, 0.15, count), radius * 0.8, z, radius], axis=-1)
        return cls(_green(rng), 0.0, clumps, _leaves(rng, count, 16))

    @property
    def radius(self) -> float:
        """Reach of the crown from the trunk, metres."""
        return float(np.abs(self.clumps[:, 0]).max() + 0.5 * self.clumps[:, 3].mean())

    @property
    def height(self) -> float:
        """Height of the crown's middle, metres."""
        return float(self.clumps[:, 1].mean())

    def draw(self, canvas: Canvas, position: np.ndarray) -> None:
        light, camera = canvas.light, canvas.camera
        lowest, highest = self.clumps[:, 1].min() - 0.5, self.clumps[:, 1].max() + 0.5
        if self.trunk:
            scale = camera.scale(position[2])
            stem = camera.project(position + np.array([[0, 0, 0], [0, lowest + 1.0, 0]]))
            outline = hull_of_discs(stem, (self.trunk * scale, self.trunk * 0.7 * scale))
            canvas.convex(outline, np.multiply(_BARK, light.level), _VEGETATION, position[2])
        leaves = self.leaves.reshape(len(self.clumps), -1, 3)
        for i in np.argsort(-self.clumps[:, 2]):
            centre, radius = position + self.clumps[i, :3], self.clumps[i, 3]
            depth = float(max(centre[2], 1.5))
            middle, size = camera.project(centre), radius * camera.scale(depth)
            if not (-2 * size < middle[0] < camera.width + 2 * size and -2 * size < middle[1]):
                continue
            sun = 0.78 + 0.3 * (self.clumps[i, 1] - lowest) / (highest - lowest)
            canvas.disc(middle, size, np.multiply(self.green, light.level * sun * 0.8), _VEGETATION, depth)
            x, y, tone = leaves[i].T
            bright = light.ambient + light.direct * (0.45 + 0.5 * (x * light.sun[0] - y * light.sun[1]))
            colours = np.multiply(self.green, (bright * sun * (1 + 0.28 * tone))[:, None])
            canvas.discs(middle + leaves[i, :, :2] * size, size * 0.24, colours, _VEGETATION, depth)


def _green(rng: np.random.Generator) -> Colour:
    b, g, r = (np.array(_GREENS[int(rng.integers(len(_GREENS)))]) * rng.uniform(1.0, 1.4) + rng.normal(0, 5, 3)).clip(
        15, 220
    )
    return (b, g, r)


def _leaves(rng: np.random.Generator, clumps: int, each: int) -> np.ndarray:
    turn, out = rng.uniform(0, 2 * np.pi, clumps * each), np.sqrt(rng.uniform(0.05, 1.05, clumps * each))
    return np.stack([out * np.cos(turn), out * np.sin(turn), rng.uniform(-1, 1, clumps * each)], axis=-1)
