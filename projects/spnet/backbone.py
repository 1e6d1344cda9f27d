"""ResNet with strip pooling inside its bottlenecks, in the host's slot of a backbone."""

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from densekit.d2.config import CfgNode
from densekit.d2.layers import ShapeSpec, get_norm
from densekit.d2.modeling import BACKBONE_REGISTRY, ResNet
from densekit.d2.modeling.backbone.resnet import BottleneckBlock
from densekit.modeling.dilated_resnet import dilated_resnet

from .pooling import StripPooling

_WHERE = ("none", "last", "all")


class StripBottleneck(BottleneckBlock):
    """The host's bottleneck with a gate of strip pooling before its last convolution (figure 5a).

    Args:
        in_channels: of the input.
        out_channels: of the output.
        strip: add the gate; without it the block is the host's.
        norm: name of the norms.
        options: of the host's bottleneck.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, strip: bool = False, norm: str = "BN", **options: Any
    ) -> None:
        super().__init__(in_channels, out_channels, norm=norm, **options)
        self.strip = StripPooling(options["bottleneck_channels"], norm=partial(_norm, norm)) if strip else None

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override] # as the host calls other blocks than its own
        """Maps (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        inner = F.relu(self.conv2(F.relu(self.conv1(x))))
        if self.strip is not None:
            inner = inner * self.strip(inner)
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.conv3(inner) + shortcut)


def _norm(name: str, channels: int) -> nn.Module:
    return get_norm(name, channels) or nn.Identity()


@BACKBONE_REGISTRY.register()
def SPNetResNet(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:  # noqa: N802 - a name that configurations choose
    """A dilated ResNet with strip pooling where ``MODEL.SPNET.STRIP_POOLING`` says; reads ``MODEL.RESNETS`` too.

    Raises:
        ValueError: the list does not say one of none, last and all for each of the four stages.
    """
    where = cfg.MODEL.SPNET.STRIP_POOLING
    if len(where) != 4 or any(word not in _WHERE for word in where):
        raise ValueError(f"MODEL.SPNET.STRIP_POOLING is {list(where)}; it needs four of {', '.join(_WHERE)}.")

    def strips(stage: int, blocks: int) -> dict[str, list[Any]]:
        every, last = where[stage] == "all", where[stage] == "last"
        return {"strip": [every or (last and block == blocks - 1) for block in range(blocks)]}

    return dilated_resnet(cfg, input_shape, StripBottleneck, strips)
