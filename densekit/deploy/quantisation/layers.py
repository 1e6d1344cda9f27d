"""The parts of an ONNX graph that compute in 8 bits: its convolutions and linear layers, and what lies between them.

The rule asks nothing of the system: a map is the output of such a layer, or what maps become by activations, sums,
joins, pooling and resizing. What follows the last layers - anchors, decoding, suppression, pooling of regions, scores
of pixels - is none of that and stays in float.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Layer", "Node", "Structure", "structure_of"]

Node = Any  # onnx.NodeProto; onnx is an optional package

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm"}
_ACTIVATIONS = {"Relu", "Clip", "LeakyRelu", "HardSwish"}
# Operations on maps whose inputs are quantised, for else they would be computed in float
_JOINTS = {"Add", "Concat", "MaxPool", "Resize"}
_OF_MAPS = {*_ACTIVATIONS, *_JOINTS, "Sigmoid", "Mul", "HardSigmoid"}
_FLOAT = 1  # onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class Layer:
    """A weight and the nodes that use it; a head that all levels of a pyramid share is one layer.

    Attributes:
        name: that of the weight in the model.
        weight: that of the weight in the graph.
        nodes: its nodes.
    """

    name: str
    weight: str
    nodes: tuple[Node, ...]

    @property
    def kind(self) -> str:
        """The operation: Conv, ConvTranspose or Gemm."""
        return str(self.nodes[0].op_type)

    @property
    def channel_axis(self) -> int:
        """The dimension of the weight in which the output's channels are counted."""
        if self.kind == "Gemm":
            transposed = any(entry.name == "transB" and entry.i for entry in self.nodes[0].attribute)
            return 0 if transposed else 1
        return 0 if self.kind == "Conv" else 1


@dataclass(frozen=True)
class Structure:
    """The quantised parts of a graph.

    Attributes:
        layers: in the order of computation.
        joints: nodes between layers that maps go through.
        users: tensor -> nodes that take it.
    """

    layers: tuple[Layer, ...]
    joints: tuple[Node, ...]
    users: Mapping[str, Sequence[Node]]

    def tail(self, node: Node) -> list[Node]:
        """The activation right after a layer's node: a node, two for SiLU, x * sigmoid(x), or none."""
        users = self.users[node.output[0]]
        if len(users) == 1 and users[0].op_type in _ACTIVATIONS:
            return list(users)
        gates = [user for user in users if user.op_type == "Sigmoid"]
        products = [user for user in users if user.op_type == "Mul"]
        if len(gates) == len(products) == 1 and len(users) == 2 and gates[0].output[0] in products[0].input:
            return [gates[0], products[0]]
        return []

    def inputs(self, float_layers: Sequence[str] = ()) -> list[str]:
        """The maps that are quantised where they enter layers and joints.

        Args:
            float_layers: names of layers that stay in float.
        """
        nodes = [node for layer in self.layers if layer.name not in float_layers for node in layer.nodes]
        names = [node.input[0] for node in nodes]
        for joint in self.joints:
            names += joint.input if joint.op_type in ("Add", "Concat") else joint.input[:1]
        return list(dict.fromkeys(names))

    def gated(self, float_layers: Sequence[str] = ()) -> list[str]:
        """Outputs of layers that no ReLU follows and that go on into an activation such as SiLU."""
        return [
            node.output[0]
            for layer in self.layers
            if layer.name not in float_layers
            for node in layer.nodes
            if [part.op_type for part in self.tail(node)] not in ([], ["Relu"])
        ]


def structure_of(model: Any) -> Structure:
    """Finds layers and joints in an ONNX model.

    Raises:
        ValueError: It has no layer that could be quantised.
    """
    weights = {entry.name for entry in model.graph.initializer if entry.data_type == _FLOAT}
    users: dict[str, list[Node]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            users[name].append(node)
    by_weight: dict[str, list[Node]] = defaultdict(list)
    for node in model.graph.node:
        if node.op_type in _WEIGHTED and node.input[1] in weights:
            by_weight[node.input[1]].append(node)
    if not any(node.op_type != "Gemm" for nodes in by_weight.values() for node in nodes):
        raise ValueError("The model has no convolution, and only convolutional models can be quantised.")
    layers = tuple(Layer(_plain(name), name, tuple(nodes)) for name, nodes in by_weight.items())
    return Structure(layers, tuple(_joints(model, layers)), users)


def _plain(weight: str) -> str:
    return weight.removeprefix("model.").removesuffix(".weight")


def _joints(model: Any, layers: Sequence[Layer]) -> list[Node]:
    """Nodes whose inputs are maps and whose output reaches another layer as a map."""
    spatial = [node for layer in layers if layer.kind != "Gemm" for node in layer.nodes]
    maps = {node.output[0] for node in spatial}
    candidates = []
    for node in model.graph.node:  # in the order of computation
        data = node.input[:1] if node.op_type in ("Resize", "Clip") else node.input
        if node.op_type in _OF_MAPS and all(name in maps for name in data):
            maps.add(node.output[0])
            candidates.append(node)
    entries = {node.input[0] for node in spatial}
    wanted: set[str] = set()
    for node in reversed(candidates):
        if node.output[0] in entries | wanted:
            wanted.update(node.input)
    return [node for node in candidates if node.op_type in _JOINTS and node.output[0] in entries | wanted]
