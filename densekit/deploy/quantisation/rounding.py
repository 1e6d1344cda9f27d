"""Weights in whole steps, rounded so that the outputs of calibration pictures change least.

Rounding each weight to the nearest step is good enough where the weights of a channel are alike. In blocks that were
fused from branches they are not: the identity leaves one weight far above all others, and their common step is coarse.
So weights are rounded one after the other, and those to come make up for the errors so far as the inputs of the layer
allow (GPTQ, arXiv 2210.17323, with the inputs in the order of their squares). What is left of the error on average goes
into the bias.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from densekit.deploy.quantisation.calibration import Feed, watching
from densekit.deploy.quantisation.layers import Layer, Structure
from densekit.deploy.targets import required

__all__ = ["Moments", "Rounded", "nearest", "rounded_by_moments", "rounded_weights"]

_WIDEST = 4608  # inputs of an output; the squares of more take too long, and linear layers of that width are no trouble
_PLACES = 512  # of a map, so many are looked at
_DAMPING = 0.01  # of the mean square of the inputs, against rounding that fits the sample alone
_BLOCK = 128


@dataclass(frozen=True)
class Rounded:
    """The weight of a layer on the grid of its steps.

    Attributes:
        values: float32, in the shape of the weight.
        steps: (output channels,) float32.
        shift: (output channels,) what is added to the bias; None where it is not known.
    """

    values: np.ndarray
    steps: np.ndarray
    shift: np.ndarray | None = None


class Moments:
    """Sums over the inputs (N, K) of a layer's outputs.

    Args:
        width: K, the number of inputs of an output.

    Attributes:
        squares: (K, K) float64, of their products.
        sums: (K,) float64.
        count: N.
    """

    def __init__(self, width: int) -> None:
        self.squares = torch.zeros(width, width, dtype=torch.float64)
        self.sums = torch.zeros(width, dtype=torch.float64)
        self.count = 0

    def add(self, rows: Tensor) -> None:
        """Adds rows (N, K)."""
        self.squares += (rows.T @ rows).double()
        self.sums += rows.double().sum(0)
        self.count += len(rows)


def nearest(values: np.ndarray, axis: int, largest: int) -> Rounded:
    """Rounds each weight to the nearest step.

    Args:
        values: the weight.
        axis: in which its output channels are counted.
        largest: steps from 0 to the largest absolute value of a channel: 127 for 8 bits, 63 for 7.
    """
    others = tuple(number for number in range(values.ndim) if number != axis)
    top = np.abs(values).max(axis=others, keepdims=True)
    steps = (np.where(top > 0, top, 1) / largest).astype(np.float32)
    return Rounded((np.rint(values / steps) * steps).astype(np.float32), steps.reshape(-1))


def rounded_by_moments(rows: Tensor, moments: Moments, largest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rounds the weights (C, K) of C outputs, with regard to their inputs.

    Returns:
        The rounded weights (C, K) and steps (C,), and the mean (C,) of what the outputs have lost.
    """
    weights = rows.double().clone()
    steps = rows.double().abs().amax(1).clamp(min=1e-30) / largest
    diagonal = moments.squares.diagonal()
    order = diagonal.argsort(descending=True)
    squares = moments.squares[order][:, order].clone()
    squares.diagonal().add_(_DAMPING * diagonal.mean() + 1e-12)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(squares)), upper=True)
    weights = weights[:, order]
    result = torch.empty_like(weights)
    for start in range(0, weights.shape[1], _BLOCK):
        end = min(start + _BLOCK, weights.shape[1])
        errors = torch.empty(len(weights), end - start, dtype=torch.float64)
        for place in range(start, end):
            whole = (weights[:, place] / steps).round().clamp(-largest, largest)
            result[:, place] = whole * steps
            error = (weights[:, place] - result[:, place]) / inverse[place, place]
            weights[:, place:end] -= error[:, None] * inverse[place, place:end]
            errors[:, place - start] = error
        weights[:, end:] -= errors @ inverse[start:end, end:]
    back = result[:, order.argsort()]
    return back, steps, (rows.double() - back) @ (moments.sums / max(moments.count, 1))


def rounded_weights(model: Any, structure: Structure, feeds: Iterable[Feed], largest: int) -> dict[str, Rounded]:
    """Rounds the weights of all layers.

    Args:
        model: an ONNX model in float32.
        structure: its layers.
        feeds: the model's inputs for each picture.
        largest: as of :func:`nearest`.

    Returns:
        Name of a layer -> its weight. Transposed and grouped convolutions, and very wide layers, are rounded to the
        nearest.
    """
    onnx: Any = required("onnx")
    stored = {entry.name: entry for entry in model.graph.initializer}
    weights = {layer.name: onnx.numpy_helper.to_array(stored[layer.weight]) for layer in structure.layers}
    moments = {
        layer.name: Moments(_width(weights[layer.name], layer))
        for layer in structure.layers
        if _takes_part(layer, weights[layer.name])
    }
    layers = [layer for layer in structure.layers if layer.name in moments]
    run = watching(model, list(dict.fromkeys(node.input[0] for layer in layers for node in layer.nodes)))
    generator = torch.Generator().manual_seed(0)
    for feed in feeds:
        maps = run(feed)
        for layer in layers:
            for node in layer.nodes:
                moments[layer.name].add(_inputs(maps[node.input[0]], node, weights[layer.name].shape, generator))
    return {
        layer.name: _rounded(layer, weights[layer.name], moments.get(layer.name), largest) for layer in structure.layers
    }


def _rounded(layer: Layer, weight: np.ndarray, moments: Moments | None, largest: int) -> Rounded:
    if moments is None or not moments.count:
        return nearest(weight, layer.channel_axis, largest)
    turned = np.moveaxis(weight, layer.channel_axis, 0)
    rows = torch.from_numpy(turned.reshape(len(turned), -1).copy())
    values, steps, shift = rounded_by_moments(rows, moments, largest)
    shaped = np.moveaxis(values.numpy().reshape(turned.shape), 0, layer.channel_axis)
    return Rounded(np.ascontiguousarray(shaped, np.float32), steps.float().numpy(), shift.float().numpy())


def _width(weight: np.ndarray, layer: Layer) -> int:
    return weight.size // weight.shape[layer.channel_axis]


def _takes_part(layer: Layer, weight: np.ndarray) -> bool:
    grouped = any(_attributes(node).get("group", 1) != 1 for node in layer.nodes)
    return layer.kind != "ConvTranspose" and not grouped and _width(weight, layer) <= _WIDEST


def _inputs(values: Tensor, node: Any, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """(N, K): the inputs of some outputs of a node."""
    if node.op_type == "Gemm":
        chosen = torch.randperm(len(values), generator=generator)[:_PLACES]
        return values[chosen]
    options = _attributes(node)
    kernel, pads = tuple(shape[2:]), options.get("pads", [0] * 4)
    padded = F.pad(values, (pads[1], pads[3], pads[0], pads[2]))
    windows = F.unfold(padded, kernel, options.get("dilations", (1, 1)), 0, options.get("strides", (1, 1)))
    rows = windows.transpose(1, 2).flatten(0, 1)
    return rows[torch.randperm(len(rows), generator=generator)[:_PLACES]]


def _attributes(node: Any) -> Mapping[str, Any]:
    onnx: Any = required("onnx")
    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
