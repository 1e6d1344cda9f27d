"""The sensitivity of layers to 8 bits as a drawing."""

from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.figure import Figure

from densekit.deploy.quantisation.sensitivity import Sensitivity

__all__ = ["draw_sensitivity"]

_INT8, _FLOAT = "#4878a8", "#d1603d"


def draw_sensitivity(layers: Sequence[Sensitivity], kept: Collection[str]) -> Figure:
    """One bar for each layer, in the order of computation: the signal-to-noise ratio of its output in 8 bits.

    Args:
        layers: of a model.
        kept: names of those that stay in float, which have another colour.
    """
    figure = Figure(figsize=(8, 1.2 + 0.17 * len(layers)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(layers))
    for names, colour, label in (
        ([layer.layer in kept for layer in layers], _FLOAT, "stays in float"),
        ([layer.layer not in kept for layer in layers], _INT8, "8 bits"),
    ):
        chosen = np.array(names, dtype=bool)
        ratios = np.array([min(layer.snr, 100.0) for layer in layers])
        if chosen.any():
            axes.barh(places[chosen], ratios[chosen], color=colour, label=label)
    axes.set_yticks(places, [layer.layer for layer in layers], fontsize=6)
    axes.set(xlabel="signal-to-noise ratio of the layer's output, dB (low: sensitive)", ylim=(len(layers) - 0.4, -0.6))
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=2)
    return figure
