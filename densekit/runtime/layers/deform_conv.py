"""Deformable convolutions through torchvision's operator.

Dai et al., "Deformable Convolutional Networks", arXiv:1703.06211;
Zhu et al., "Deformable ConvNets v2", arXiv:1811.11168.
"""

import torch
from torch import nn
from torch.nn.modules.utils import _pair
from torchvision.ops import deform_conv2d

from densekit.runtime.layers.conv import Activation, finish
from densekit.runtime.layers.norm import fold_norm


class _DeformConvBase(nn.Module):
    """Parameters and arithmetic of both versions."""

    _may_have_bias: bool

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool | None = None,
        norm: nn.Module | None = None,
        activation: Activation | None = None,
    ) -> None:
        """Takes the arguments of a convolution and three more.

        Args:
            in_channels: As in ``torch.nn.Conv2d``.
            out_channels: Likewise.
            kernel_size: Likewise.
            stride: Likewise.
            padding: Likewise.
            dilation: Likewise.
            groups: Likewise.
            deformable_groups: Groups of input channels with offsets of their own.
            bias: Version 1 has none; version 2 has one unless this is False.
            norm: Module on the output.
            activation: Function or module on the normalised output.

        Raises:
            ValueError: Version 1 shall have a bias, or channels do not split into groups.
        """
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{in_channels} input and {out_channels} output channels do not split into {groups} groups."
            )
        if in_channels % deformable_groups:
            raise ValueError(f"{in_channels} input channels do not split into {deformable_groups} deformable groups.")
        if bias and not self._may_have_bias:
            raise ValueError("DeformConv has no bias; use ModulatedDeformConv or a norm.")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        self.groups = groups
        self.deformable_groups = deformable_groups
        self.norm = norm
        self.activation = activation
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        has_bias = self._may_have_bias if bias is None else bias
        self.bias = nn.Parameter(torch.zeros(out_channels)) if has_bias else None

    def _convolve(self, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        folded = fold_norm(self.weight, self.bias, self.norm)
        weight, bias = folded or (self.weight, self.bias)
        x = deform_conv2d(x, offset, weight, bias, self.stride, self.padding, self.dilation, mask)
        return finish(x, None if folded else self.norm, self.activation)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"deformable_groups={self.deformable_groups}"
        )


class DeformConv(_DeformConvBase):
    """A convolution whose taps move by predicted offsets."""

    _may_have_bias = False

    def forward(self, x: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """Convolves.

        Args:
            x: (N, C, H, W).
            offset: (N, 2 * deformable_groups * taps, H', W') shifts of each tap in input pixels, (y, x) in turn.
        """
        return self._convolve(x, offset, None)


class ModulatedDeformConv(_DeformConvBase):
    """Version 2: the taps are also weighted by a predicted mask."""

    _may_have_bias = True

    def forward(self, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Convolves.

        Args:
            x: (N, C, H, W).
            offset: As of :class:`DeformConv`.
            mask: (N, deformable_groups * taps, H', W') weight of each tap, usually in 0 .. 1.
        """
        return self._convolve(x, offset, mask)
