"""Upsampling layers that a name chooses: the operators that the CARAFE paper compares (arXiv 1905.02188, section 5).

Each one enlarges (N, C, H, W) to (N, C, sH, sW), with s its ``scale_factor``. The paper's tables have GUM (arXiv
1812.01658) as well, which learns where to sample; it is left out.
"""

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

# Operations that a bilinear sample takes in the paper's counts: four products, three sums, and one for the position.
_BILINEAR_FLOPS = 8


class Upsampler(nn.Module, ABC):
    """Interface of upsampling layers.

    Args:
        channels: C, of the input and of the output.
        scale_factor: s, how many times larger each side becomes.
    """

    def __init__(self, channels: int, *, scale_factor: int = 2) -> None:
        super().__init__()
        if channels < 1 or scale_factor < 1:
            raise ValueError(f"channels={channels} and scale_factor={scale_factor} must be positive.")
        self.channels = channels
        self.scale_factor = scale_factor

    @abstractmethod
    def flops_per_pixel(self) -> int:
        """Operations for one input pixel, a multiply-add being two, counted as in the paper's tables."""

    def num_parameters(self) -> int:
        """Learned numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def extra_repr(self) -> str:
        return f"channels={self.channels}, scale_factor={self.scale_factor}"


class Interpolation(Upsampler):
    """Nearest or bilinear interpolation, half-pixel centres; nothing to learn."""

    def __init__(self, channels: int, *, scale_factor: int = 2, mode: str = "nearest") -> None:
        super().__init__(channels, scale_factor=scale_factor)
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        align_corners = None if self.mode == "nearest" else False
        return F.interpolate(x, scale_factor=float(self.scale_factor), mode=self.mode, align_corners=align_corners)

    def flops_per_pixel(self) -> int:
        return 0 if self.mode == "nearest" else _BILINEAR_FLOPS * self.channels * self.scale_factor**2

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mode={self.mode!r}"


class InterpolationConv(Upsampler):
    """Interpolation, then a 3x3 convolution: "N.C." and "B.C." of the paper."""

    def __init__(self, channels: int, *, scale_factor: int = 2, mode: str = "nearest") -> None:
        super().__init__(channels, scale_factor=scale_factor)
        self.interpolation = Interpolation(channels, scale_factor=scale_factor, mode=mode)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        xavier_fill(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.interpolation(x))

    def flops_per_pixel(self) -> int:
        conv = 2 * self.conv.weight.numel() * self.scale_factor**2
        return conv + self.interpolation.flops_per_pixel()


class Deconvolution(Upsampler):
    """Transposed convolution with a window of 2s - 1 pixels (3x3 for s = 2), so that neighbours overlap."""

    def __init__(self, channels: int, *, scale_factor: int = 2) -> None:
        super().__init__(channels, scale_factor=scale_factor)
        s = scale_factor
        self.deconv = nn.ConvTranspose2d(channels, channels, 2 * s - 1, stride=s, padding=s - 1, output_padding=s - 1)
        xavier_fill(self.deconv)

    def forward(self, x: Tensor) -> Tensor:
        return self.deconv(x)

    def flops_per_pixel(self) -> int:
        return 2 * self.deconv.weight.numel()


class PixelShuffle(Upsampler):
    """A 3x3 convolution to s * s times the channels, which then become pixels (arXiv 1609.05158)."""

    def __init__(self, channels: int, *, scale_factor: int = 2) -> None:
        super().__init__(channels, scale_factor=scale_factor)
        self.conv = nn.Conv2d(channels, channels * scale_factor**2, 3, padding=1)
        xavier_fill(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        return depth_to_space(self.conv(x), self.scale_factor)

    def flops_per_pixel(self) -> int:
        return 2 * self.conv.weight.numel()


class SpatialAttention(Upsampler):
    """Bilinear interpolation, reweighted pixel by pixel with the sigmoid of a 3x3 convolution of it: "S.A."."""

    def __init__(self, channels: int, *, scale_factor: int = 2) -> None:
        super().__init__(channels, scale_factor=scale_factor)
        self.interpolation = Interpolation(channels, scale_factor=scale_factor, mode="bilinear")
        self.attention = nn.Conv2d(channels, 1, 3, padding=1)
        xavier_fill(self.attention)

    def forward(self, x: Tensor) -> Tensor:
        x = self.interpolation(x)
        return x * self.attention(x).sigmoid()

    def flops_per_pixel(self) -> int:
        attention = (2 * self.attention.weight.numel() + self.channels) * self.scale_factor**2
        return attention + self.interpolation.flops_per_pixel()


def depth_to_space(x: Tensor, scale: int) -> Tensor:
    """Pixel shuffle, (N, C * s * s, H, W) to (N, C, sH, sW); torch's own has no backward pass for an empty batch."""
    n, c, h, w = x.shape
    pixels = x.reshape(n, c // scale**2, scale, scale, h, w).permute(0, 1, 4, 2, 5, 3)
    return pixels.reshape(n, c // scale**2, h * scale, w * scale)


def xavier_fill(conv: nn.Module) -> None:
    """Starts a convolution with Glorot's uniform weights and a bias of zero."""
    nn.init.xavier_uniform_(conv.get_parameter("weight"))
    nn.init.zeros_(conv.get_parameter("bias"))
