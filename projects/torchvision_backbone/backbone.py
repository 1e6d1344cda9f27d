"""torchvision's networks in the host's slot of a backbone."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import FrozenBatchNorm2d, ShapeSpec
from densekit.d2.modeling import BACKBONE_REGISTRY, Backbone
from densekit.weights.pixels import IMAGENET_RGB, mismatch

_STRIDES = (2, 4, 8, 16, 32)
_PROBE = (192, 320)  # pixels; no square, so that channels and sides are told apart


@BACKBONE_REGISTRY.register()
class TorchvisionBackbone(Backbone):
    """The last map of each stride of a torchvision network: ``stage1`` (2) to ``stage5`` (32), where it has them.

    Parameters keep torchvision's names below ``network.``; what no map needs, the classifier first of all, is left out.

    Args:
        network: A classifier of torchvision's, in any mode.
        freeze_at: Everything up to the map ``stage<freeze_at>`` is not trained; 0 trains all.
        freeze_norms: Make constants of all batch norms.

    Raises:
        ValueError: The network has no maps of these strides, or none of that of ``freeze_at``.
    """

    @configurable
    def __init__(self, *, network: nn.Module, freeze_at: int = 0, freeze_norms: bool = False) -> None:
        super().__init__()
        nodes = _last_nodes(network)
        self._channels_last = {f"stage{_level(stride)}" for stride, (_, last) in nodes.items() if last}
        returned = {node: f"stage{_level(stride)}" for stride, (node, _) in nodes.items()}
        self.network: Any = create_feature_extractor(network, returned)
        with torch.no_grad():
            self.network.eval()
            device = next(network.parameters()).device
            maps = self._ordered(self.network(torch.zeros(1, 3, *_PROBE, device=device)))
            self.network.train()
        self._out_features = sorted(maps)
        self._out_feature_channels = {name: maps[name].shape[1] for name in self._out_features}
        self._out_feature_strides = {name: 2 ** int(name[-1]) for name in self._out_features}
        if freeze_at:
            self._freeze(freeze_at)
        if freeze_norms:
            self.network = FrozenBatchNorm2d.convert_frozen_batchnorm(self.network)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Reads ``MODEL.TORCHVISION`` and ``MODEL.BACKBONE.FREEZE_AT``.

        Raises:
            ValueError: torchvision has no such network, or the images do not have three channels.
        """
        keys = cfg.MODEL.TORCHVISION
        if keys.NAME not in models.list_models(module=models):
            near = models.list_models(module=models, include=f"*{keys.NAME[:6]}*")[:5]
            raise ValueError(f"MODEL.TORCHVISION.NAME is {keys.NAME!r}, which torchvision does not have. Near: {near}.")
        if input_shape.channels != 3:
            raise ValueError(f"torchvision's networks take 3 channels, and the images have {input_shape.channels}.")
        network = models.get_model(keys.NAME, weights="DEFAULT" if keys.PRETRAINED else None)
        pixels = (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
        note = mismatch([IMAGENET_RGB], *pixels, f"torchvision's weights of {keys.NAME}")
        if note and (keys.PRETRAINED or cfg.MODEL.WEIGHTS):
            logging.getLogger(__name__).warning(note)
        return {"network": network, "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT, "freeze_norms": keys.FREEZE_NORMS}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the maps by name, each (N, channels, H / stride, W / stride), for images (N, 3, H, W)."""
        return self._ordered(self.network(x))

    @property
    def size_divisibility(self) -> int:
        return max(self._out_feature_strides.values())

    def _ordered(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """The maps with their channels before height and width."""
        return {name: x.permute(0, 3, 1, 2) if name in self._channels_last else x for name, x in maps.items()}

    def _freeze(self, level: int) -> None:
        """Stops the training of everything that the map of a level needs, batch norms included."""
        name = f"stage{level}"
        if name not in self._out_features:
            raise ValueError(
                f"MODEL.BACKBONE.FREEZE_AT is {level}, and this network has no map of stride {2**level}; it has "
                f"{', '.join(self._out_features)}. 0 trains everything."
            )
        needed: set[Any] = set()
        waiting = [node for node in self.network.graph.nodes if node.op == "output"]
        waiting = [waiting[0].args[0][name]]
        while waiting:
            node = waiting.pop()
            if node not in needed:
                needed.add(node)
                waiting += node.all_input_nodes
        for node in needed:
            if node.op == "call_module":
                part = self.network.get_submodule(node.target)
                part.requires_grad_(False)
                parent, _, last = node.target.rpartition(".")
                setattr(self.network.get_submodule(parent), last, FrozenBatchNorm2d.convert_frozen_batchnorm(part))
            elif node.op == "get_attr":
                self.network.get_parameter(node.target).requires_grad_(False)


def _level(stride: int) -> int:
    return stride.bit_length() - 1


def _last_nodes(network: nn.Module) -> dict[int, tuple[str, bool]]:
    """Finds the last map of each stride by a pass on zeros.

    Returns:
        Stride -> name of the node in the graph, and whether its map has the channels last.

    Raises:
        ValueError: The network cannot be traced, takes images of one size alone, or has no such maps.
    """
    kind = type(network).__name__
    try:
        _, names = get_graph_node_names(network)
        extractor = create_feature_extractor(network, return_nodes=names[1:]).eval()  # the first is the image
        with torch.no_grad():
            outputs = extractor(torch.zeros(1, 3, *_PROBE, device=next(network.parameters()).device))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"MODEL.TORCHVISION.NAME names a {kind}, which cannot be a backbone: {reason}") from error
    found: dict[int, tuple[str, bool]] = {}
    for name, output in outputs.items():
        if not isinstance(output, Tensor) or output.dim() != 4:
            continue
        for stride in _STRIDES:
            side = (_PROBE[0] // stride, _PROBE[1] // stride)
            if tuple(output.shape[2:]) == side or tuple(output.shape[1:3]) == side:
                found[stride] = (name, tuple(output.shape[2:]) != side)
    if not set(found) & set(_STRIDES[2:]):
        raise ValueError(
            f"MODEL.TORCHVISION.NAME names a {kind}, which has no maps of strides 8 to 32 and cannot be a backbone."
        )
    return found
