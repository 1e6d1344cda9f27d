"""MPViT: Multi-Path Vision Transformer for Dense Prediction (arXiv 2112.11010), figure 2.

Written from the paper and from recorded numbers.

N: images, C: channels, H, W: sides of a map, P: paths of a stage.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .attention import TransformerPath

Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Size:
    """Widths and depths of a published size (arXiv 2112.11010, table 1), stage by stage.

    Attributes:
        num_path: P.
        num_layers: transformer layers of each path.
        embed_dims: channels inside a stage.
        mlp_ratios: hidden width of the MLPs, in channels.
        num_heads: heads of the attention.
    """

    num_path: tuple[int, ...]
    num_layers: tuple[int, ...]
    embed_dims: tuple[int, ...]
    mlp_ratios: tuple[float, ...]
    num_heads: tuple[int, ...] = (8, 8, 8, 8)

    def __post_init__(self) -> None:
        lengths = {len(values) for values in vars(self).values()}
        if len(lengths) != 1:
            raise ValueError(f"Every list needs an entry for each stage, got {self}.")


class ConvNorm(nn.Module):
    """Convolution without bias, norm, and Hardswish unless ``activated`` is false."""

    folds = (("conv", "norm"),)

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, norm: Norm, stride: int = 1, activated: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.norm = norm(out_channels)
        self.activation = nn.Hardswish() if activated else nn.Identity()
        _fan_out(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        return self.activation(self.norm(self.conv(x)))


class PatchEmbedding(nn.Module):
    """Overlapping patches by a separable 3x3 convolution with one norm; chained, two of them see 5x5 and three 7x7."""

    folds = (("pointwise", "norm"),)

    def __init__(self, channels: int, *, stride: int, norm: Norm) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = norm(channels)
        for conv in (self.depthwise, self.pointwise):
            _fan_out(conv)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""
        return nn.functional.hardswish(self.norm(self.pointwise(self.depthwise(x))))


class LocalBranch(nn.Module):
    """Residual depthwise bottleneck that keeps the local detail beside the paths (section 3.3)."""

    folds = (("depthwise", "norm"),)

    def __init__(self, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, 1, norm=norm)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = norm(channels)
        self.conv2 = ConvNorm(channels, channels, 1, norm=norm, activated=False)
        _fan_out(self.depthwise, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to the same shape."""
        return x + self.conv2(nn.functional.hardswish(self.norm(self.depthwise(self.conv1(x)))))


class Stage(nn.Module):
    """Multi-scale patch embedding, parallel paths and global-to-local interaction.

    Args:
        channels: C, of the input and of every path.
        out_channels: of the output.
        stride: of the first patch embedding.
        num_path: P.
        num_heads: heads of the attention.
        mlp_ratio: hidden width of the MLPs, in C.
        drop_path: probability for each layer, shared by the paths.
        norm: makes a norm from its number of channels.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        stride: int,
        num_path: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path: list[float],
        norm: Norm,
    ) -> None:
        super().__init__()
        self.patches = nn.ModuleList(
            PatchEmbedding(channels, stride=stride if path == 0 else 1, norm=norm) for path in range(num_path)
        )
        self.paths = nn.ModuleList(TransformerPath(channels, num_heads, mlp_ratio, drop_path) for _ in range(num_path))
        self.local = LocalBranch(channels, norm=norm)
        self.aggregate = ConvNorm((num_path + 1) * channels, out_channels, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        patches = []
        for patch in self.patches:
            x = patch(x)
            patches.append(x)
        seen = [self.local(patches[0]), *(path(patch) for path, patch in zip(self.paths, patches))]
        return self.aggregate(torch.cat(seen, dim=1))


class MPViT(nn.Module):
    """The backbone: a stem of stride 4 and four stages, of strides 4, 8, 16 and 32.

    Args:
        size: widths and depths.
        norm: makes a norm from its number of channels.
        drop_path: probability for the last layer; the others' rise linearly from 0.
        in_channels: of the images.
    """

    def __init__(
        self, size: Size, *, norm: Norm = nn.BatchNorm2d, drop_path: float = 0.0, in_channels: int = 3
    ) -> None:
        super().__init__()
        dims = size.embed_dims
        self.channels = [*dims[1:], dims[-1]]  # of each stage's output
        self.stem = nn.Sequential(
            ConvNorm(in_channels, dims[0] // 2, 3, stride=2, norm=norm),
            ConvNorm(dims[0] // 2, dims[0], 3, stride=2, norm=norm),
        )
        rates = iter(np.linspace(0, drop_path, sum(size.num_layers)).tolist())
        self.stages = nn.ModuleList(
            Stage(
                dims[index],
                self.channels[index],
                stride=1 if index == 0 else 2,
                num_path=size.num_path[index],
                num_heads=size.num_heads[index],
                mlp_ratio=size.mlp_ratios[index],
                drop_path=[next(rates) for _ in range(layers)],
                norm=norm,
            )
            for index, layers in enumerate(size.num_layers)
        )
        self.apply(_init_linear)

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        """Yields the map of each stage for images (N, 3, H, W) of any size, finest first."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            yield x


class MPViTClassifier(nn.Module):
    """The ImageNet model: a linear layer on the mean of the last map."""

    def __init__(self, backbone: MPViT, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(backbone.channels[-1], num_classes)
        _init_linear(self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the scores (N, num_classes) of images (N, 3, H, W)."""
        *_, last = self.backbone(x)
        return self.classifier(last.mean(dim=(2, 3)))


def _fan_out(conv: nn.Conv2d, groups: int = 1) -> None:
    """Normal initialisation by the fan-out; the authors divide it by the groups in the local branch alone."""
    side = conv.kernel_size[0]
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2.0 / (side * side * conv.out_channels / groups)))


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
