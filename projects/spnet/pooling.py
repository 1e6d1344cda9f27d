"""Strip pooling and mixed pooling: "Strip Pooling: Rethinking Spatial Pooling for Scene Parsing" (arXiv 2003.13328).

N: images, C: channels, H, W: sides of a map.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.layers.conv_norm import ConvNorm, Norm
from densekit.layers.grid_pooling import grid_mean


class StripPooling(nn.Module):
    """Gate from the means of whole rows and columns (section 3.1, figure 2).

    Args:
        channels: C.
        norm: makes the norms.
    """

    def __init__(self, channels: int, *, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.rows = ConvNorm(channels, channels, (3, 1), norm=norm)
        self.columns = ConvNorm(channels, channels, (1, 3), norm=norm)
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the gate (N, C, H, W), values from 0 to 1, for a map of that shape."""
        rows = self.rows(x.mean(dim=3, keepdim=True))  # (N, C, H, 1)
        columns = self.columns(x.mean(dim=2, keepdim=True))  # (N, C, 1, W)
        return self.gate((rows + columns).relu()).sigmoid()


class MixedPooling(nn.Module):
    """Strips for long dependencies beside grids for short ones, joined and added to the input (section 3.2, figure 4).

    Args:
        channels: C; the branches have a quarter of it.
        grids: sides of the two pooling grids.
        norm: makes the norms.
    """

    def __init__(self, channels: int, grids: Sequence[int] = (20, 12), *, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        inner = channels // 4

        def conv(kernel: int | tuple[int, int], activated: bool = False) -> ConvNorm:
            return ConvNorm(inner, inner, kernel, norm=norm, activation=nn.ReLU() if activated else None)

        self.grids = tuple(grids)
        self.reduce_short = ConvNorm(channels, inner, 1, norm=norm, activation=nn.ReLU())
        self.reduce_long = ConvNorm(channels, inner, 1, norm=norm, activation=nn.ReLU())
        self.local = conv(3)
        self.pooled = nn.ModuleList(conv(3) for _ in grids)
        self.columns, self.rows = conv((1, 3)), conv((3, 1))
        self.short, self.long = conv(3, activated=True), conv(3, activated=True)
        self.join = ConvNorm(2 * inner, channels, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to the same shape; H and W may be smaller than the grids."""
        near, far = self.reduce_short(x), self.reduce_long(x)
        short = self.local(near)
        for grid, conv in zip(self.grids, self.pooled):
            pooled = conv(grid_mean(near, grid))
            short = short + F.interpolate(pooled, size=x.shape[-2:], mode="bilinear", align_corners=True)
        long = self.columns(far.mean(dim=2, keepdim=True)) + self.rows(far.mean(dim=3, keepdim=True))
        joined = self.join(torch.cat([self.short(short.relu()), self.long(long.relu())], dim=1))
        return (x + joined).relu()
