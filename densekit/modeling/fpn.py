"""Feature pyramids on any backbone, with any upsampling layer and either way to the level above the backbone's last.

"Feature Pyramid Networks for Object Detection" (arXiv 1612.03144); upsampling layers as in "CARAFE: Content-Aware
ReAssembly of FEatures" (arXiv 1905.02188), section 4.1.
"""

from collections.abc import Callable
from typing import cast

import torch
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from densekit.d2.config import CfgNode
from densekit.d2.layers import Conv2d, ShapeSpec, get_norm
from densekit.d2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from densekit.d2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from densekit.modeling.upsampling import upsampler_from_config

TOP_LEVELS = ("maxpool", "conv", "p6p7", "p6p7_on_output")


class UpsamplerFPN(FPN):
    """The host's pyramid with an upsampling layer for every step of the top-down path.

    Parameters keep the host's names, ``bottom_up``, ``fpn_lateral<level>`` and ``fpn_output<level>``. New are
    ``fpn_upsample<level>``, which enlarges that level's map for the next finer level, and with ``top_level="conv"`` the
    two convolutions of the added level.

    Args:
        bottom_up: The backbone below.
        in_features: Its feature maps to use, finest first, each of twice the stride of the one before.
        out_channels: Channels of every output.
        upsampler: Makes a layer that doubles the size, from the number of channels.
        norm: Norm behind the convolutions; with "" they have a bias instead.
        fuse_type: ``"sum"`` or ``"avg"`` of the lateral and the top-down map.
        top_level: What is above the backbone's last map. ``"maxpool"``: every second pixel of the last output, as in
            Detectron2. ``"conv"``: a 3x3 convolution of stride 2 on the backbone's last map, where the top-down path
            then starts, as in mmdetection's CARAFE pyramid. ``"p6p7"``: two levels by convolutions of stride 2 on the
            backbone's last map, as in RetinaNet (arXiv 1708.02002). ``"p6p7_on_output"``: the same on the last output.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: list[str],
        out_channels: int,
        *,
        upsampler: Callable[[int], nn.Module],
        norm: str = "",
        fuse_type: str = "sum",
        top_level: str = "maxpool",
    ) -> None:
        super().__init__(bottom_up, in_features, out_channels, norm=norm, fuse_type=fuse_type)
        self._average = fuse_type == "avg"
        self._levels = [int(name.removeprefix("p")) for name in self._out_features]  # finest first
        channels = cast(int, bottom_up.output_shape()[in_features[-1]].channels)
        last, added = self._levels[-1], 1
        if top_level == "conv":
            self._levels.append(last + 1)
            self._add_lateral_conv(last + 1, channels, out_channels, norm)
            self._size_divisibility = 2 ** (last + 1)
        elif top_level == "maxpool":
            self.top_block = LastLevelMaxPool()
            self.top_block.in_feature = f"p{last}"
        elif top_level in ("p6p7", "p6p7_on_output"):
            width, source = (channels, in_features[-1]) if top_level == "p6p7" else (out_channels, f"p{last}")
            self.top_block, added = LastLevelP6P7(width, out_channels, source), 2
        else:
            raise ValueError(f"top_level={top_level!r} must be one of {TOP_LEVELS}.")
        for level in range(last + 1, last + 1 + added):
            self._name_output(level, out_channels)
        for level in self._levels[1:]:
            self.add_module(f"fpn_upsample{level}", upsampler(out_channels))

    def _add_lateral_conv(self, level: int, in_channels: int, out_channels: int, norm: str) -> None:
        """The convolutions of a level that the backbone does not have."""
        lateral = Conv2d(
            in_channels, out_channels, 3, stride=2, padding=1, bias=norm == "", norm=get_norm(norm, out_channels)
        )
        output = Conv2d(out_channels, out_channels, 3, padding=1, bias=norm == "", norm=get_norm(norm, out_channels))
        for name, conv in (("fpn_lateral", lateral), ("fpn_output", output)):
            weight_init.c2_xavier_fill(conv)
            self.add_module(f"{name}{level}", conv)

    def _name_output(self, level: int, channels: int) -> None:
        """Adds the level to the tables that ``output_shape`` reads."""
        self._out_features = [*self._out_features, f"p{level}"]
        self._out_feature_strides[f"p{level}"] = 2**level
        self._out_feature_channels[f"p{level}"] = channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the pyramid for images (N, C, H, W) whose sides are multiples of ``size_divisibility``."""
        if pixelwise := prefers_pixelwise(self, x):
            x = x.contiguous(memory_format=torch.channels_last)
        features = self.bottom_up(x)
        sources = [*self.in_features, self.in_features[-1]]  # the last one twice, if a convolution makes the top level
        outputs: dict[str, Tensor] = {}
        above: Tensor | None = None
        for level, source in reversed(list(zip(self._levels, sources))):
            merged = getattr(self, f"fpn_lateral{level}")(features[source])
            if above is not None:
                height, width = merged.shape[2:]  # smaller than twice a level above that was rounded up
                # In place: nothing needs the lateral map by itself, neither here nor in the backward pass.
                merged += getattr(self, f"fpn_upsample{level + 1}")(above)[..., :height, :width]
                if self._average:
                    merged /= 2
            outputs[f"p{level}"] = getattr(self, f"fpn_output{level}")(merged)
            above = merged
        if self.top_block is not None:
            start = self.top_block.in_feature
            top = self.top_block(features[start] if start in features else outputs[start])
            outputs.update(zip(self._out_features[-len(top) :], top))
        return {name: outputs[name].contiguous() if pixelwise else outputs[name] for name in self._out_features}


def prefers_pixelwise(module: nn.Module, x: Tensor) -> bool:
    """Tells whether a convolutional network runs faster on ``x`` with all channels of a pixel side by side.

    True on a CPU, unless a norm takes statistics of the maps, which is less exact in that order.
    """
    return x.device.type == "cpu" and not any(isinstance(m, nn.GroupNorm | _BatchNorm) for m in module.modules())


def add_config(cfg: CfgNode) -> None:
    """Adds the keys of ``MODEL.FPN`` that ``build_fpn_backbone`` reads beside the host's."""
    cfg.MODEL.FPN.BOTTOM_UP = "build_resnet_backbone"  # name of the backbone below it
    cfg.MODEL.FPN.UPSAMPLER = "nearest"  # of the top-down path, a name of densekit.layers.UPSAMPLERS
    # What is above the backbone's last map: "maxpool" of the last output (Detectron2), or "conv", a convolution of
    # stride 2 on the backbone's map, where the top-down path starts (mmdetection's CARAFE pyramid).
    cfg.MODEL.FPN.TOP_LEVEL = "maxpool"  # above the last map; or "conv", "p6p7", "p6p7_on_output": see UpsamplerFPN


@BACKBONE_REGISTRY.register()
def build_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> UpsamplerFPN:
    """A pyramid on the backbone named by ``MODEL.FPN.BOTTOM_UP``; reads ``MODEL.FPN``."""
    node = cfg.MODEL.FPN
    if node.TOP_LEVEL not in TOP_LEVELS:
        raise ValueError(f"MODEL.FPN.TOP_LEVEL is {node.TOP_LEVEL!r}; it must be one of {', '.join(TOP_LEVELS)}.")
    return UpsamplerFPN(
        BACKBONE_REGISTRY.get(node.BOTTOM_UP)(cfg, input_shape),
        node.IN_FEATURES,
        node.OUT_CHANNELS,
        upsampler=upsampler_from_config(cfg, "MODEL.FPN.UPSAMPLER"),
        norm=node.NORM,
        fuse_type=node.FUSE_TYPE,
        top_level=node.TOP_LEVEL,
    )
