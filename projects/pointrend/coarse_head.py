"""The light head that predicts a coarse mask, or the parameters of a point head. PointRend, arXiv 1912.08193.

Plain torch. Shapes: R regions, S x S their features.
"""

import math
from collections.abc import Sequence

import torch
from fvcore.nn import weight_init
from torch import nn


class CoarseHead(nn.Module):
    """A strided convolution and linear layers.

    Args:
        in_channels: channels of the regions; a 1x1 convolution reduces them where they are more than conv_dim.
        resolution: S.
        conv_dim: channels of the convolutions.
        fc_dims: widths of the linear layers.
        output_shape: of the prediction for one region.

    Raises:
        ValueError: the regions have fewer channels than conv_dim, or there is no linear layer.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        resolution: int,
        conv_dim: int,
        fc_dims: Sequence[int],
        output_shape: Sequence[int],
    ) -> None:
        super().__init__()
        if in_channels < conv_dim or not fc_dims:
            raise ValueError(
                f"The coarse head needs MODEL.ROI_MASK_HEAD.CONV_DIM ({conv_dim}) of at most the {in_channels} "
                f"channels of its maps, and MODEL.ROI_MASK_HEAD.NUM_FC ({len(fc_dims)}) of at least 1."
            )
        self.output_shape = tuple(output_shape)
        self.reduce_channel_dim_conv = nn.Conv2d(in_channels, conv_dim, 1) if in_channels > conv_dim else None
        self.reduce_spatial_dim_conv = nn.Conv2d(conv_dim, conv_dim, 2, stride=2)
        for convolution in (self.reduce_channel_dim_conv, self.reduce_spatial_dim_conv):
            if convolution is not None:
                weight_init.c2_msra_fill(convolution)
        width, self.num_fc = conv_dim * resolution**2 // 4, len(fc_dims)
        for k, fc_dim in enumerate(fc_dims, start=1):
            layer = nn.Linear(width, fc_dim)
            weight_init.c2_xavier_fill(layer)
            self.add_module(f"fc{k}", layer)
            width = fc_dim
        self.prediction = nn.Linear(width, math.prod(self.output_shape))
        nn.init.normal_(self.prediction.weight, std=0.001)
        nn.init.zeros_(self.prediction.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps regions (R, in_channels, S, S) to (R, *output_shape)."""
        if self.reduce_channel_dim_conv is not None:
            x = self.reduce_channel_dim_conv(x).relu_()
        x = self.reduce_spatial_dim_conv(x).relu_().flatten(1)
        for k in range(1, self.num_fc + 1):
            x = self.get_submodule(f"fc{k}")(x).relu_()
        return self.prediction(x).view(len(x), *self.output_shape)
