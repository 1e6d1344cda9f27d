"""The curves of a training, from the lines of metrics.json."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["learning_groups"]

_MOST_POINTS = 300
_MOST_SERIES = 8
_MAIN = ("AP", "AP50", "mIoU", "IoU", "PQ")


def learning_groups(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sorts the numbers of a training into charts.

    Args:
        lines: by iteration; each has ``iteration`` and numbers, None where one was undefined.

    Returns:
        Charts with ``title`` and ``series`` of ``name`` and ``points`` (iteration, value); none without numbers.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name != "iteration" and isinstance(value, int | float):
                series.setdefault(name, []).append((line["iteration"], value))
    losses = [name for name in series if "loss" in name]
    losses.sort(key=lambda name: (name != "total_loss", -series[name][0][1]))
    # One evaluation, at the end, is no curve.
    scores = [name for name in series if name.rpartition("/")[2] in _MAIN and len(series[name]) > 1]
    groups = (("Losses", losses), ("Evaluations", scores), ("Learning rate", [name for name in series if name == "lr"]))
    return [
        {"title": title, "series": [{"name": name, "points": _thinned(series[name])} for name in names[:_MOST_SERIES]]}
        for title, names in groups
        if names
    ]


def _thinned(points: list[tuple[int, float]]) -> list[list[float]]:
    """At most so many points, the first and the last among them."""
    step = max(1, -(-len(points) // _MOST_POINTS))
    kept = points[::step]
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    return [[iteration, float(f"{value:.5g}")] for iteration, value in kept]
