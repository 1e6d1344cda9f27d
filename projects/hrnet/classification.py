"""HRNet as a classifier of images: the neck of its ImageNet checkpoints (arXiv 1908.07919, section 4.1, appendix)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from .network import Bottleneck, Norm, init_weights


class ClassificationNeck(nn.Module):
    """Widens every branch by a bottleneck, adds them up from the finest down, and averages.

    Args:
        in_channels: Of the branches, finest first.
        channels: Inner width of the bottlenecks, whose outputs are four times as wide.
        out_channels: Of the feature of an image.
        norm: Makes the norms.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        norm: Norm,
        channels: Sequence[int] = (32, 64, 128, 256),
        out_channels: int = 2048,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        widths = [Bottleneck.expansion * width for width in channels]
        self.incre_modules = nn.ModuleList(
            nn.Sequential(Bottleneck(width, inner, norm)) for width, inner in zip(in_channels, channels)
        )
        self.downsamp_modules = nn.ModuleList(
            nn.Sequential(nn.Conv2d(narrow, wide, 3, stride=2, padding=1), norm(wide), nn.ReLU())
            for narrow, wide in pairwise(widths)
        )
        self.final_layer = nn.Sequential(nn.Conv2d(widths[-1], out_channels, 1), norm(out_channels), nn.ReLU())
        init_weights(self, "kaiming")

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Returns (N, out_channels) for the maps of the branches, finest first."""
        x = self.incre_modules[0](maps[0])
        for down, widen, finer in zip(self.downsamp_modules, self.incre_modules[1:], maps[1:]):
            x = widen(finer) + down(x)
        return self.final_layer(x).mean(dim=(2, 3))
