"""Histograms of the absolute values of a map over many pictures, and the ranges that are read from them.

A map is quantised to whole steps between 0 and its range (below 0, too, where it has negative numbers), and what
exceeds the range is cut off. The four ways to choose it are those of NVIDIA's pytorch-quantization (arXiv 2004.09602,
section 4.2), as detectors of one stage were published with (arXiv 2209.02976, section 2.5). ONNX Runtime's own
calibrators keep the maps of all pictures until the end and know no squared error, so these read one picture after the
other instead.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["METHODS", "Histogram", "largest", "least_divergence", "least_squares", "quantile"]

BINS = 2048
_MOST = 8192  # beyond, neighbouring bins are joined, so that a first picture of low contrast cannot fill the memory
_FIRST = 128  # no range is sought in fewer bins
_QUANTILE = 99.99  # percent


class Histogram:
    """Counts of absolute values in bins of one width, which the first values fix.

    Args:
        bins: their number for the first values; larger values add bins.

    Attributes:
        counts: (bins,) float64.
        width: of a bin; 0 as long as all values were 0.
        lowest: the smallest value with its sign.
        highest: the largest absolute value.
    """

    def __init__(self, bins: int = BINS) -> None:
        self._bins = bins
        self.counts = np.zeros(bins)
        self.width, self.lowest, self.highest = 0.0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        """Counts float32 values of any shape.

        Raises:
            ValueError: One is not finite.
        """
        if not values.numel():
            return
        lowest, largest_ = (float(value) for value in values.aminmax())
        top = max(-lowest, largest_)
        if not np.isfinite(top):
            raise ValueError("a value is not finite")
        self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, top)
        if not self.width and top:
            self.width = top / self._bins
        if not self.width:
            self.counts[0] += values.numel()
            return
        needed = max(len(self.counts), int(np.ceil(top / self.width)))
        while needed > _MOST:
            self._join()
            needed = max(len(self.counts), int(np.ceil(top / self.width)))
        self.counts = np.pad(self.counts, (0, needed - len(self.counts)))
        # A fifth of the time of torch.histc; the largest value may be rounded beyond the last bin.
        places = values.abs().flatten().mul_(1 / self.width).to(torch.int32).clamp_(max=needed - 1)
        self.counts += torch.bincount(places, minlength=needed).double().numpy()

    def _join(self) -> None:
        """Makes the bins twice as wide."""
        even = np.pad(self.counts, (0, len(self.counts) % 2))
        self.counts, self.width = even.reshape(-1, 2).sum(1), 2 * self.width

    @property
    def edges(self) -> np.ndarray:
        """(bins + 1,): where the bins begin and the last ends."""
        return np.arange(len(self.counts) + 1) * self.width

    @property
    def signed(self) -> bool:
        """True where there were negative values."""
        return self.lowest < 0

    def state(self) -> dict[str, np.ndarray]:
        """Returns all of it, for :meth:`restored`."""
        return {"counts": self.counts, "limits": np.array([self.width, self.lowest, self.highest])}

    @classmethod
    def restored(cls, state: Mapping[str, np.ndarray]) -> "Histogram":
        """Returns the histogram that :meth:`state` describes."""
        result = cls()
        result.counts = np.array(state["counts"], dtype=np.float64)
        result.width, result.lowest, result.highest = (float(value) for value in state["limits"])
        return result


def largest(histogram: Histogram, signed: bool) -> float:
    """The largest absolute value, so that nothing is cut off."""
    return histogram.highest


def quantile(histogram: Histogram, signed: bool, percent: float = _QUANTILE) -> float:
    """The value below which so many percent of the absolute values lie."""
    counts, edges = histogram.counts, histogram.edges
    shares = np.cumsum(counts / counts.sum())
    return float(edges[np.searchsorted(shares, percent / 100)])


def least_divergence(histogram: Histogram, signed: bool) -> float:
    """The range with the least Kullback-Leibler divergence of the quantised distribution from the true one.

    For each range the bins within are divided into as many groups as there are steps; a group's count is spread over
    those of its bins that are not empty, and what is cut off counts as the last bin of the true distribution.
    """
    counts, edges = histogram.counts.copy(), histogram.edges
    if len(counts) < _FIRST:
        return histogram.highest
    counts[0] = counts[1]  # zeros, which any range hits
    groups = 128 if signed else 256
    total, logarithm = counts.sum(), np.log(np.where(counts > 0, counts, 1))
    if not total:
        return histogram.highest
    sums, filled, entropy = (_before(part) for part in (counts, counts > 0, counts * logarithm))
    divergences = []
    for size in range(_FIRST, len(counts) + 1):
        beyond, last = total - sums[size], counts[size - 1]
        if not sums[size] or (beyond > 0 and not last):
            divergences.append(np.inf)
            continue
        starts = np.ceil(np.linspace(0, size, groups + 1)).astype(int)
        group, kept = np.diff(sums[starts]), np.diff(filled[starts])
        true, spread = group.copy(), np.divide(group, kept * sums[size], out=np.ones(groups), where=kept > 0)
        true[np.searchsorted(starts, size - 1, side="right") - 1] += beyond
        own = entropy[size] + ((last + beyond) * np.log(last + beyond) - last * np.log(last) if beyond > 0 else 0.0)
        divergences.append((own - (true * np.log(spread)).sum()) / total - np.log(total))
    best = len(divergences) - 1 - int(np.argmin(divergences[::-1]))  # the widest of equal ones
    return float(edges[_FIRST + best])


def least_squares(histogram: Histogram, signed: bool) -> float:
    """The range with the least mean squared difference between the values, as centres of bins, and the quantised."""
    counts, edges = histogram.counts, histogram.edges
    centres, steps = (edges[1:] + edges[:-1]) / 2, 127 if signed else 255
    if len(counts) <= _FIRST:
        return histogram.highest
    errors = []
    for limit in centres[_FIRST:]:
        levels = np.minimum(np.rint(centres * (steps / limit)), steps) * (limit / steps)
        errors.append(((levels - centres) ** 2 * counts).sum())
    return float(centres[_FIRST + int(np.argmin(errors))])


def _before(values: Any) -> np.ndarray:
    """(N + 1,): sums of all values before each place."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


# --method -> the range of a histogram, given whether the map has negative values
METHODS: dict[str, Callable[[Histogram, bool], float]] = {
    "max": largest,
    "percentile": quantile,
    "entropy": least_divergence,
    "mse": least_squares,
}
