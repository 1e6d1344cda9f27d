"""Places of a feature map that region pooling looks at, and the distance that it moves a box by.

Coordinates are cells of the map, (0, 0) the upper left corner of its first cell, whose middle is (0.5, 0.5).
Shapes: h x w bins, S samples per bin and axis.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from densekit.layers.roi_warp import SAMPLES

__all__ = ["POOLERS", "ROUNDINGS", "RegionSamples", "region_samples"]

POOLERS = ("ROIPool", "ROIWarp", "ROIAlign", "ROIAlignV2")  # the values of POOLER_TYPE
ROUNDINGS = ("nearest", "floor")


@dataclass(frozen=True)
class RegionSamples:
    """One box on one map.

    Attributes:
        exact: (4,) xyxy of the box, unrounded.
        placed: (4,) xyxy of the corners that the pooler takes instead.
        region: (4,) xyxy of what it divides into bins; where it rounds, the cells of both corners belong to it.
        points: per bin, row by row, the (K, 2) x and y of its samples.
        stride: image pixels per cell.
    """

    exact: np.ndarray
    placed: np.ndarray
    region: np.ndarray
    points: list[np.ndarray]
    stride: float

    @property
    def moved(self) -> np.ndarray:
        """Image pixels (4,) that each edge moves by, to the right and down."""
        return (self.placed - self.exact) * self.stride


def region_samples(
    pooler: str,
    box: Sequence[float],
    *,
    stride: float,
    bins: tuple[int, int],
    sampling_ratio: int = 0,
    rounding: str = "nearest",
) -> RegionSamples:
    """Computes where a pooler samples for one box.

    Args:
        pooler: One of :data:`POOLERS`.
        box: xyxy in image pixels.
        stride: Image pixels per cell.
        bins: (h, w).
        sampling_ratio: S of RoIAlign; 0 for as many as a bin has cells.
        rounding: Of RoIPool and RoIWarp. "nearest" is the operators' own; "floor" is the arithmetic of many
            explanations, which leaves out the started cell.

    Raises:
        ValueError: There is no such pooler or rounding, or the box or the grid has no extent.
    """
    if pooler not in POOLERS:
        raise ValueError(f"The pooler {pooler!r} is not one of {', '.join(POOLERS)}.")
    if rounding not in ROUNDINGS:
        raise ValueError(f"The rounding {rounding!r} is not one of {', '.join(ROUNDINGS)}.")
    exact = np.asarray(box, dtype=float)
    if exact.shape != (4,) or not np.isfinite(exact).all() or not (exact[2:] > exact[:2]).all():
        raise ValueError(f"The box {list(box)} must be x0 y0 x1 y1 with x0 < x1 and y0 < y1.")
    if not stride > 0 or min(bins) < 1:
        raise ValueError(f"The stride {stride} and the bins {bins} must be positive.")
    exact = exact / stride
    if pooler in ("ROIPool", "ROIWarp"):
        placed = np.floor(exact + (0.5 if rounding == "nearest" else 0.0))
        region = placed + np.array([0.0, 0.0, 1.0, 1.0])
    else:
        # Without its correction RoIAlign takes a coordinate for the index of a cell, which is half a cell further.
        placed = region = exact + (0.5 if pooler == "ROIAlign" else 0.0)
        if pooler == "ROIAlign":  # and it makes a box one cell wide and high at least
            region = np.concatenate([region[:2], np.maximum(region[2:], region[:2] + 1)])
    columns = _axis(pooler, region[0], region[2], bins[1], sampling_ratio)
    rows = _axis(pooler, region[1], region[3], bins[0], sampling_ratio)
    points = [np.array([(x, y) for y in row for x in column]) for row in rows for column in columns]
    return RegionSamples(exact, placed, region, points, stride)


def _axis(pooler: str, low: float, high: float, bins: int, ratio: int) -> list[list[float]]:
    """Coordinates of the samples of each bin along one axis."""
    side = high - low
    if pooler == "ROIPool":  # all cells that a bin touches, so that neighbours may share one
        edges = [(math.floor(k * side / bins), math.ceil((k + 1) * side / bins)) for k in range(bins)]
        return [[low + cell + 0.5 for cell in range(first, last)] for first, last in edges]
    count = SAMPLES if pooler == "ROIWarp" else ratio or math.ceil(side / bins)
    return [[low + (k + (s + 0.5) / count) * side / bins for s in range(count)] for k in range(bins)]
