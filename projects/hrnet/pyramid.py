"""HRNetV2p: a feature pyramid from all branches (arXiv 1908.07919, section 4.3 and Figure 4 c)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POOLINGS = ("avg", "max")


def concatenate(maps: Sequence[Tensor]) -> Tensor:
    """All maps at the size of the finest: bilinear, by the ratio of strides, so that sides must be exact multiples."""
    factors = (float(2**k) for k in range(1, len(maps)))
    larger = (
        F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
        for x, factor in zip(maps[1:], factors)
    )
    return torch.cat([maps[0], *larger], dim=1)


class HRFPN(nn.Module):
    """Narrows the branches side by side, pools the result to every level and convolves it there.

    Args:
        in_channels: Of all branches together.
        out_channels: Of every level.
        levels: How many; the first has the size of the finest branch, each other half the size before it.
        pooling: One of :data:`POOLINGS`.

    Raises:
        ValueError: Another pooling.
    """

    def __init__(self, *, in_channels: int, out_channels: int, levels: int = 5, pooling: str = "avg") -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"MODEL.HRNET.PYRAMID_POOLING is {pooling!r}; it must be one of {', '.join(POOLINGS)}.")
        self.pool = F.avg_pool2d if pooling == "avg" else F.max_pool2d
        self.reduction = nn.Conv2d(in_channels, out_channels, 1)
        self.outputs = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in range(levels))
        for conv in (self.reduction, *self.outputs):
            nn.init.kaiming_uniform_(conv.get_parameter("weight"), a=1)
            nn.init.zeros_(conv.get_parameter("bias"))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Returns the levels (N, out_channels, H0 / 2^k, W0 / 2^k) for the branches, both finest first."""
        x = self.reduction(concatenate(maps))
        return [conv(self.pool(x, 2**k) if k else x) for k, conv in enumerate(self.outputs)]
