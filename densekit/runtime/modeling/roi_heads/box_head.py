"""The box head: convolutions, then fully connected layers, on pooled region features."""

import math
from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn

from densekit.runtime.config import CfgNode, configurable
from densekit.runtime.layers import ShapeSpec
from densekit.runtime.layers.blocks import conv3x3_norm_relu
from densekit.runtime.utils.registry import Registry

ROI_BOX_HEAD_REGISTRY = Registry("ROI_BOX_HEAD")
ROI_BOX_HEAD_REGISTRY.__doc__ = """
Box heads. An entry is called as ``entry(cfg, input_shape)`` with the ShapeSpec of pooled region features and returns a
module with an ``output_shape``.
"""


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions (norm, ReLU), then fully connected layers (ReLU).

    Args:
        input_shape: channels, height and width of a pooled region.
        conv_dims: output channels of each convolution.
        fc_dims: output size of each fully connected layer.
        conv_norm: a name or callable for :func:`get_norm`; the convolutions have no bias if it is set.

    Raises:
        ValueError: if there is no layer at all.
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, conv_dims: Sequence[int], fc_dims: Sequence[int], conv_norm: Any = ""
    ) -> None:
        super().__init__()
        if not conv_dims and not fc_dims:
            raise ValueError("a box head needs a layer: set MODEL.ROI_BOX_HEAD.NUM_CONV or NUM_FC above 0")
        channels: Any = input_shape.channels
        for i, width in enumerate(conv_dims, start=1):
            self.add_module(f"conv{i}", conv3x3_norm_relu(channels, width, conv_norm))
            channels = width
        self._output_shape = ShapeSpec(channels=channels, height=input_shape.height, width=input_shape.width)
        if not fc_dims:
            return
        self.add_module("flatten", nn.Flatten())
        size = math.prod((channels, input_shape.height or 1, input_shape.width or 1))
        for i, width in enumerate(fc_dims, start=1):
            fc = nn.Linear(size, width)
            weight_init.c2_xavier_fill(fc)
            self.add_module(f"fc{i}", fc)
            self.add_module(f"fc_relu{i}", nn.ReLU(inplace=True))
            size = width
        self._output_shape = ShapeSpec(channels=size)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        node = cfg.MODEL.ROI_BOX_HEAD
        return {
            "input_shape": input_shape,
            "conv_dims": [node.CONV_DIM] * node.NUM_CONV,
            "fc_dims": [node.FC_DIM] * node.NUM_FC,
            "conv_norm": node.NORM,
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (R, C, H, W) to (R, fc_dims[-1]), or to (R, conv_dims[-1], H, W) without fully connected layers."""
        return super().forward(x)

    @property
    def output_shape(self) -> ShapeSpec:
        """The shape of one region's output."""
        return self._output_shape


def build_box_head(cfg: CfgNode, input_shape: ShapeSpec) -> nn.Module:
    """The box head named by ``MODEL.ROI_BOX_HEAD.NAME``."""
    return ROI_BOX_HEAD_REGISTRY.get(cfg.MODEL.ROI_BOX_HEAD.NAME)(cfg, input_shape)
