"""The recall of proposals as a drawing."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from densekit.evaluation.proposals import RECALL_THRESHOLDS


def draw_recall(recall: Mapping[int, np.ndarray]) -> Figure:
    """One curve for each number of boxes: recall in percent over the overlap that counts as covered.

    Args:
        recall: number of boxes -> (10,) at overlaps of 0.5, 0.55 ... 0.95.
    """
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    for limit, values in recall.items():
        axes.plot(RECALL_THRESHOLDS.tolist(), values, marker="o", markersize=3, label=f"{limit} boxes")
    axes.set(xlabel="overlap (IoU)", ylabel="objects covered, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
