"""Sensitivity of each layer to 8 bits: its output with quantised input and weight beside that of the float model.

As in arXiv 2209.02976, section 2.5.2, the output is the map after the layer's activation. Only the layer itself
is quantised, so that its numbers do not depend on the others; the sums of all layers are computed in one graph.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from densekit.deploy.quantisation.calibration import Feed, Range
from densekit.deploy.quantisation.layers import Layer, Structure
from densekit.deploy.quantisation.rounding import Rounded
from densekit.deploy.targets import required, session_of

__all__ = ["Sensitivity", "most_sensitive", "sensitivities"]

_SUMS = ("error", "float", "int8", "product", "count")


@dataclass(frozen=True)
class Sensitivity:
    """Numbers of one layer.

    Attributes:
        layer: its name.
        kind: Conv, ConvTranspose or Gemm.
        mse: mean squared error of its output.
        snr: signal-to-noise ratio, squares of the output over those of the error, in decibels.
        cosine: of the angle between both outputs.
    """

    layer: str
    kind: str
    mse: float
    snr: float
    cosine: float


def most_sensitive(found: Sequence[Sensitivity], count: int) -> list[str]:
    """The names of so many layers with the lowest signal-to-noise ratio, the worst first."""
    return [one.layer for one in sorted(found, key=lambda one: one.snr)[:count]]


def sensitivities(
    model: Any,
    structure: Structure,
    ranges: Mapping[str, Range],
    weights: Mapping[str, Rounded],
    feeds: Iterable[Feed],
) -> list[Sensitivity]:
    """Measures all layers of a model on pictures.

    Args:
        model: an ONNX model in float32.
        structure: its layers.
        ranges: of their inputs.
        weights: of the layers, rounded.
        feeds: the model's inputs for each picture.

    Returns:
        One entry for each layer, in the order of computation.
    """
    session = session_of(_with_twins(model, structure, ranges, weights).SerializeToString(), whole=False)
    names = [entry.name for entry in session.get_outputs()]
    inputs = {entry.name for entry in session.get_inputs()}
    sums: dict[str, float] = dict.fromkeys(names, 0.0)
    for feed in feeds:
        found = session.run(names, {name: feed[name].numpy() for name in inputs})
        for name, value in zip(names, found):
            sums[name] += float(value)
    return [_of_layer(layer, sums) for layer in structure.layers]


def _of_layer(layer: Layer, sums: Mapping[str, float]) -> Sensitivity:
    error, exact, coarse, product, count = (sum(sums[_sum_name(node, key)] for node in layer.nodes) for key in _SUMS)
    snr = 10 * np.log10(exact / error) if error > 0 and exact > 0 else np.inf
    cosine = product / np.sqrt(exact * coarse) if exact > 0 and coarse > 0 else 1.0
    return Sensitivity(layer.name, layer.kind, error / max(count, 1.0), float(snr), float(min(cosine, 1.0)))


def _sum_name(node: Any, key: str) -> str:
    return f"{node.name}/{key}"


def _with_twins(model: Any, structure: Structure, ranges: Mapping[str, Range], weights: Mapping[str, Rounded]) -> Any:
    """The model with a quantised copy of each layer's node beside it, and sums over both outputs as its outputs."""
    onnx: Any = required("onnx")
    twins = onnx.ModelProto()
    twins.CopyFrom(model)
    del twins.graph.output[:]
    for layer in structure.layers:
        coarse = f"{layer.weight}/coarse"
        twins.graph.initializer.append(onnx.numpy_helper.from_array(weights[layer.name].values, coarse))
        for node in layer.nodes:
            _add_twin(twins.graph, node, structure.tail(node), coarse, ranges[node.input[0]])
    return twins


def _add_twin(graph: Any, node: Any, tail: Sequence[Any], weight: str, limits: Range) -> None:
    onnx: Any = required("onnx")
    name, make = node.name, onnx.helper.make_node
    constants = {"scale": np.float32(limits.step), "zero": np.uint8(limits.zero)}
    for key, value in constants.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), f"{name}/{key}"))
    pair = [f"{name}/scale", f"{name}/zero"]
    graph.node.append(make("QuantizeLinear", [node.input[0], *pair], [f"{name}/bytes"]))
    graph.node.append(make("DequantizeLinear", [f"{name}/bytes", *pair], [f"{name}/coarse"]))
    renamed = {node.input[0]: f"{name}/coarse", node.input[1]: weight}
    for part in [node, *tail]:
        copy = onnx.NodeProto()
        copy.CopyFrom(part)
        renamed[part.output[0]] = f"{part.output[0]}/coarse/{name}"
        copy.name = f"{part.name}/twin/{name}"
        copy.input[:] = [renamed.get(entry, entry) for entry in part.input]
        copy.output[:] = [renamed[part.output[0]]]
        graph.node.append(copy)
    exact = (tail[-1] if tail else node).output[0]
    coarse = renamed[exact]
    graph.node.append(make("Sub", [coarse, exact], [f"{name}/difference"]))
    graph.node.append(make("Mul", [coarse, exact], [f"{name}/products"]))
    for key, operation, operand in (
        ("error", "ReduceSumSquare", f"{name}/difference"),
        ("float", "ReduceSumSquare", exact),
        ("int8", "ReduceSumSquare", coarse),
        ("product", "ReduceSum", f"{name}/products"),
        ("count", "Size", exact),
    ):
        options = {} if operation == "Size" else {"keepdims": 0}
        graph.node.append(make(operation, [operand], [_sum_name(node, key)], **options))
        kind = onnx.TensorProto.INT64 if operation == "Size" else onnx.TensorProto.FLOAT
        graph.output.append(onnx.helper.make_tensor_value_info(_sum_name(node, key), kind, []))
