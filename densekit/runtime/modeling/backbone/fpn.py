"""Feature pyramid: "Feature Pyramid Networks for Object Detection" (arXiv:1612.03144), and its ResNet builders."""

import itertools
import math
from typing import Protocol

import torch
import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from densekit.runtime.config import CfgNode
from densekit.runtime.layers import Conv2d, ShapeSpec, get_norm
from densekit.runtime.modeling.backbone.backbone import BACKBONE_REGISTRY, Backbone, known_stride
from densekit.runtime.modeling.backbone.resnet import ResNet, build_resnet_backbone


class TopBlock(Protocol):
    """Layers that add coarser levels on top of a pyramid."""

    num_levels: int
    """How many."""
    in_feature: str
    """The map to start from: of the backbone, or else of the pyramid."""

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Returns the new maps, finest first."""


class FPN(Backbone):
    """Adds a top-down path to a backbone; returns ``p<log2 stride>``, finest first.

    Args:
        bottom_up: The backbone below.
        in_features: Its feature maps to use, finest first, each of twice the stride of the one before.
        out_channels: Channels of every output.
        norm: Norm behind the convolutions; with "" they have a bias instead.
        top_block: Module that makes coarser levels.
        fuse_type: ``"sum"`` or ``"avg"`` of the lateral and the top-down map.
        square_pad: If positive, images are padded to squares of this many pixels.

    Raises:
        ValueError: The strides do not double, or ``fuse_type`` is unknown.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: list[str],
        out_channels: int,
        norm: str = "",
        top_block: TopBlock | None = None,
        fuse_type: str = "sum",
        square_pad: int = 0,
    ) -> None:
        super().__init__()
        shapes = bottom_up.output_shape()
        unknown = [name for name in in_features if name not in shapes]
        if unknown or not in_features:
            raise ValueError(f"FPN in_features={in_features} must be among the backbone's {list(shapes)}.")
        strides = [known_stride(name, shapes[name]) for name in in_features]
        if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(strides)):
            raise ValueError(f"FPN needs strides that double from one input to the next, got {strides}.")
        if fuse_type not in ("sum", "avg"):
            raise ValueError(f"FPN fuse_type={fuse_type!r} must be 'sum' or 'avg'.")

        levels = [int(math.log2(stride)) for stride in strides]
        laterals: list[nn.Module] = []
        outputs: list[nn.Module] = []
        for level, name in zip(levels, in_features):
            lateral_norm, output_norm = get_norm(norm, out_channels), get_norm(norm, out_channels)
            bias = norm == ""
            lateral = Conv2d(shapes[name].channels, out_channels, kernel_size=1, bias=bias, norm=lateral_norm)
            output = Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=bias, norm=output_norm)
            weight_init.c2_xavier_fill(lateral)
            weight_init.c2_xavier_fill(output)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
            laterals.append(lateral)
            outputs.append(output)

        # Coarsest first, as the top-down path runs. Plain lists: the modules are registered under their names above.
        self.lateral_convs, self.output_convs = laterals[::-1], outputs[::-1]
        # In this order: checkpoints number an optimizer's state by the order of the parameters.
        self.top_block = top_block
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self._levels = levels
        self._fuse_type = fuse_type
        self._square_pad = square_pad
        extra = 0 if top_block is None else top_block.num_levels
        all_levels = [*levels, *range(levels[-1] + 1, levels[-1] + 1 + extra)]
        self._out_features = [f"p{level}" for level in all_levels]
        self._out_feature_strides = {f"p{level}": 2**level for level in all_levels}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = strides[-1]

    @property
    def size_divisibility(self) -> int:
        """The coarsest stride that takes part in the top-down path."""
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The square to pad to, 0 for none."""
        return {"square_size": self._square_pad}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the pyramid for images (N, C, H, W) whose sides are multiples of ``size_divisibility``."""
        if pixelwise := self._runs_pixelwise(x):
            x = x.contiguous(memory_format=torch.channels_last)
        bottom_up = self.bottom_up(x)
        outputs: dict[str, Tensor] = {}
        merged: Tensor | None = None
        levels, sources = self._levels[::-1], self.in_features[::-1]
        for level, source, lateral_conv, output_conv in zip(levels, sources, self.lateral_convs, self.output_convs):
            lateral = lateral_conv(bottom_up[source])
            if merged is not None:
                # In place: nothing needs the lateral map by itself, neither here nor in the backward pass.
                lateral += F.interpolate(merged, scale_factor=2.0, mode="nearest")
                if self._fuse_type == "avg":
                    lateral /= 2
            merged = lateral
            outputs[f"p{level}"] = output_conv(merged)
        if self.top_block is not None:
            start = self.top_block.in_feature
            top = self.top_block(bottom_up[start] if start in bottom_up else outputs[start])
            outputs.update(zip(self._out_features[len(self._levels) :], top))
        if pixelwise:
            outputs = {name: feature.contiguous() for name, feature in outputs.items()}
        return {name: outputs[name] for name in self._out_features}

    def _runs_pixelwise(self, x: Tensor) -> bool:
        """Tells whether the channels of a pixel are kept together in memory inside this module.

        So the CPU's convolutions need no conversions between them. Norms that take statistics lose digits that way.
        """
        if x.device.type != "cpu" or not isinstance(self.bottom_up, ResNet):
            return False
        return not any(isinstance(module, nn.GroupNorm | _BatchNorm) for module in self.modules())


class LastLevelMaxPool(nn.Module):
    """P6 as every second pixel of P5: the original FPN's extra level for the RPN."""

    def __init__(self) -> None:
        super().__init__()
        self.num_levels = 1
        self.in_feature = "p5"

    def forward(self, x: Tensor) -> list[Tensor]:
        return [F.max_pool2d(x, kernel_size=1, stride=2, padding=0)]


class LastLevelP6P7(nn.Module):
    """P6 and P7 by strided convolutions, as in "Focal Loss for Dense Object Detection" (arXiv:1708.02002).

    Args:
        in_channels: Channels of the map to start from.
        out_channels: Channels of both results.
        in_feature: Name of the map to start from, of the backbone (``res5``) or of the pyramid (``p5``).
    """

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = "res5") -> None:
        super().__init__()
        self.num_levels = 2
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        for conv in (self.p6, self.p7):
            weight_init.c2_xavier_fill(conv)

    def forward(self, c5: Tensor) -> list[Tensor]:
        p6 = self.p6(c5)
        return [p6, self.p7(F.relu(p6))]


def _resnet_fpn(cfg: CfgNode, bottom_up: Backbone, top_block: TopBlock) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """ResNet with the pyramid P2 to P6 of Faster and Mask R-CNN."""
    return _resnet_fpn(cfg, build_resnet_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """ResNet with the pyramid P3 to P7 of RetinaNet, P6 made from res5."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    channels = bottom_up.output_shape()["res5"].channels
    return _resnet_fpn(cfg, bottom_up, LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS))
