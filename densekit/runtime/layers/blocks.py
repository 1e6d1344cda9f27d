"""Building blocks of convolutional networks."""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import nn

from densekit.runtime.layers.conv import Activation, Conv2d
from densekit.runtime.layers.norm import FrozenBatchNorm2d, get_norm

Norm = str | Callable[[int], nn.Module] | None


class CNNBlockBase(nn.Module):
    """A block that maps (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def freeze(self) -> "CNNBlockBase":
        """Stops training of the block: no gradients for its parameters, batch norms as constants.

        Returns:
            The block itself.
        """
        for parameter in self.parameters():
            parameter.requires_grad = False
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        return self


def conv3x3_norm_relu(in_channels: int | None, out_channels: int, norm: Norm) -> Conv2d:
    """The layer of most heads: 3 x 3 convolution (with a bias if there is no norm), norm, ReLU; He-initialised."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        padding=1,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=nn.ReLU(inplace=True),
    )
    weight_init.c2_msra_fill(conv)
    return conv


class DepthwiseSeparableConv2d(nn.Module):
    """A depthwise k x k convolution, then a pointwise one (Xception, arXiv:1610.02357)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        padding: int = 1,
        dilation: int = 1,
        *,
        norm1: Norm = None,
        activation1: Activation | None = None,
        norm2: Norm = None,
        activation2: Activation | None = None,
    ) -> None:
        """Builds both convolutions, each with a bias where it has no norm.

        Args:
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            kernel_size: Side of the depthwise kernel.
            padding: Of the depthwise convolution.
            dilation: Of the depthwise convolution.
            norm1: After the depthwise convolution; see ``get_norm``.
            activation1: After ``norm1``.
            norm2: After the pointwise convolution.
            activation2: After ``norm2``.
        """
        super().__init__()
        self.depthwise = Conv2d(
            in_channels,
            in_channels,
            kernel_size=kernel_size,
            padding=padding,
            dilation=dilation,
            groups=in_channels,
            bias=not norm1,
            norm=get_norm(norm1, in_channels),
            activation=activation1,
        )
        self.pointwise = Conv2d(
            in_channels,
            out_channels,
            kernel_size=1,
            bias=not norm2,
            norm=get_norm(norm2, out_channels),
            activation=activation2,
        )
        weight_init.c2_msra_fill(self.depthwise)
        weight_init.c2_msra_fill(self.pointwise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling of DeepLabV3 ("Rethinking Atrous Convolution", arXiv:1706.05587)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilations: Sequence[int],
        *,
        norm: Norm,
        activation: Activation,
        pool_kernel_size: tuple[int, int] | None = None,
        dropout: float = 0.0,
        use_depthwise_separable_conv: bool = False,
    ) -> None:
        """Builds a 1 x 1 branch, three dilated branches, image pooling, and the projection of all five.

        Args:
            in_channels: Channels of the input.
            out_channels: Channels of each branch and of the output.
            dilations: Three dilations.
            norm: After every convolution but that of the image pooling, which sees single pixels; see ``get_norm``.
            activation: After every convolution.
            pool_kernel_size: (height, width) of the average pooling; None pools the whole map. A window of the training
                map's size keeps the pooled area the same when larger images are tested.
            dropout: Probability on the output.
            use_depthwise_separable_conv: In the dilated branches, as in DeepLabV3+ (arXiv:1802.02611).

        Raises:
            ValueError: Not three dilations.
        """
        super().__init__()
        if len(dilations) != 3:
            raise ValueError(f"ASPP takes three dilations; got {list(dilations)}.")
        self.pool_kernel_size = pool_kernel_size
        self.dropout = dropout

        def conv(channels: int, size: int, dilation: int = 1) -> nn.Module:
            return _conv_norm_act(channels, out_channels, size, dilation, norm, activation)

        def dilated(dilation: int) -> nn.Module:
            if not use_depthwise_separable_conv:
                return conv(in_channels, 3, dilation)
            return DepthwiseSeparableConv2d(
                in_channels,
                out_channels,
                padding=dilation,
                dilation=dilation,
                norm1=norm,
                activation1=deepcopy(activation),
                norm2=norm,
                activation2=deepcopy(activation),
            )

        pool = nn.AdaptiveAvgPool2d(1) if pool_kernel_size is None else nn.AvgPool2d(pool_kernel_size, stride=1)
        pooled = Conv2d(in_channels, out_channels, 1, activation=deepcopy(activation))
        weight_init.c2_xavier_fill(pooled)
        self.convs = nn.ModuleList(
            [conv(in_channels, 1), *(dilated(dilation) for dilation in dilations), nn.Sequential(pool, pooled)]
        )
        self.project = conv(5 * out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-2:]
        if self.pool_kernel_size is not None and any(s % k for s, k in zip(size, self.pool_kernel_size)):
            raise ValueError(f"a map of {tuple(size)} is no multiple of pool_kernel_size={self.pool_kernel_size}.")
        branches = [conv(x) for conv in self.convs]
        branches[-1] = F.interpolate(branches[-1], size=size, mode="bilinear", align_corners=False)
        x = self.project(torch.cat(branches, dim=1))
        return F.dropout(x, self.dropout, training=self.training)


def _conv_norm_act(
    in_channels: int, out_channels: int, size: int, dilation: int, norm: Norm, activation: Activation
) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        size,
        padding=dilation * (size // 2),
        dilation=dilation,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
        activation=deepcopy(activation),
    )
    weight_init.c2_xavier_fill(conv)
    return conv
