"""From a float ONNX graph and ranges to a graph whose layers compute in 8 bits, by ONNX Runtime's quantizer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from densekit.deploy.quantisation.calibration import Range
from densekit.deploy.quantisation.layers import Layer, Structure
from densekit.deploy.quantisation.rounding import Rounded
from densekit.deploy.targets import required

__all__ = ["quantised"]

_INFERRED = "onnx.infer"  # a note of the quantizer to itself


def quantised(
    model: Any,
    structure: Structure,
    ranges: Mapping[str, Range],
    weights: Mapping[str, Rounded],
    *,
    float_layers: Sequence[str] = (),
    gates: bool,
) -> Any:
    """Returns the model with pairs of QuantizeLinear and DequantizeLinear around what computes in 8 bits.

    Weights have a step for each output channel, maps have one in all. A map without negative numbers gets all 255
    steps, which lets the runtimes leave a ReLU before it out.

    Args:
        model: an ONNX model in float32.
        structure: its layers and joints.
        ranges: of the maps.
        weights: of all layers, rounded.
        float_layers: names of layers that stay in float.
        gates: quantise the output of a layer before an activation such as SiLU, too. ONNX Runtime has no convolution
            from 8 bits to floats; OpenVINO has, and is more exact without.
    """
    quantisation: Any = required("onnxruntime.quantization")
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    maps = structure.inputs(float_layers) + (structure.gated(float_layers) if gates else [])
    limits = {name: TensorData(lowest=_limit(ranges[name], 0), highest=_limit(ranges[name], 255)) for name in maps}
    layers = [layer for layer in structure.layers if layer.name not in float_layers]
    nodes = [node for layer in layers for node in layer.nodes]
    nodes += [joint for joint in structure.joints if joint.op_type in ("MaxPool", "Resize")]
    quantizer = QDQQuantizer(
        _with_weights(model, layers, weights),
        per_channel=True,
        reduce_range=False,
        weight_qType=quantisation.QuantType.QInt8,
        activation_qType=quantisation.QuantType.QUInt8,
        tensors_range=TensorsData(quantisation.CalibrationMethod.MinMax, limits),
        nodes_to_quantize=[node.name for node in nodes],
        nodes_to_exclude=[],
        op_types_to_quantize=sorted({node.op_type for node in nodes}),
        extra_options={
            "OpTypesToExcludeOutputQuantization": ["Conv", "ConvTranspose", "Gemm"],
            "TensorQuantOverrides": {
                layer.weight: _grid(weights[layer.name], layer.channel_axis, quantisation.QuantType.QInt8)
                for layer in layers
            },
        },
    )
    for name in maps:
        quantizer.quantize_activation_tensor(name)
    result = quantizer.quantize_model()
    for entry in [entry for entry in result.metadata_props if entry.key == _INFERRED]:
        result.metadata_props.remove(entry)
    return result


def _limit(limits: Range, place: int) -> np.ndarray:
    """The number that a place among 0 to 255 stands for."""
    return np.array((place - limits.zero) * limits.step, dtype=np.float32)


def _grid(weight: Rounded, axis: int, kind: Any) -> list[dict[str, Any]]:
    """The steps of a weight, in the words of the quantizer."""
    zero = np.array(0, dtype=np.int8)
    return [{"axis": axis, "quant_type": kind, "scale": step, "zero_point": zero} for step in weight.steps]


def _with_weights(model: Any, layers: Sequence[Layer], weights: Mapping[str, Rounded]) -> Any:
    """A copy of the model with rounded weights, and biases that make up for what they lose on average."""
    onnx: Any = required("onnx")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    stored = {entry.name: entry for entry in result.graph.initializer}
    users = Counter(name for node in model.graph.node for name in node.input)
    for layer in layers:
        weight = weights[layer.name]
        stored[layer.weight].CopyFrom(onnx.numpy_helper.from_array(weight.values, layer.weight))
        biases = {node.input[2] for node in layer.nodes if len(node.input) > 2}
        bias = biases.pop() if len(biases) == 1 else ""
        if weight.shift is not None and bias in stored and users[bias] == len(layer.nodes):
            values = onnx.numpy_helper.to_array(stored[bias]) + weight.shift
            stored[bias].CopyFrom(onnx.numpy_helper.from_array(values, bias))
    return result
