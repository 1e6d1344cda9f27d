"""The high-resolution network: "Deep High-Resolution Representation Learning" (arXiv 1908.07919), section 3.

Branches of strides 4, 8, 16 and 32 run side by side and exchange what they know at the end of every module. Parameters
have the names of the authors' checkpoints. Two ways to enlarge a map in the exchange are in use, with different
numbers: "nearest" by the ratio of the strides (classification, detection and pose), which needs sides that the coarsest
stride divides, and "bilinear" to the size that is needed (segmentation).

Shapes: N images, Ci x Hi x Wi branch i, finest first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

FUSE_MODES = ("nearest", "bilinear")
INITS = ("kaiming", "normal")
STEM_CHANNELS = 64

# From a number of channels to a norm.
Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Stage:
    """One stage of branches.

    Attributes:
        modules: Exchanges in the stage.
        blocks: Of each branch, in every module.
        channels: Of each branch, finest first.
    """

    modules: int
    blocks: tuple[int, ...]
    channels: tuple[int, ...]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (arXiv 1512.03385)."""

    folds = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, in_channels: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels)
        self.bn1 = norm(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = norm(channels)
        self.downsample = _shortcut(in_channels, channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (arXiv 1512.03385); the output is four times as wide."""

    expansion = 4
    folds = (*BasicBlock.folds, ("conv3", "bn3"))

    def __init__(self, in_channels: int, channels: int, norm: Norm) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = norm(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


class HighResolutionModule(nn.Module):
    """Blocks on every branch, then the exchange: each output is the sum of all branches at its size, through ReLU.

    Args:
        blocks: Of each branch.
        channels: Of each branch, finest first.
        outputs: How many of the outputs are made, the finest first.
        fuse: One of :data:`FUSE_MODES`.
        align_corners: Of bilinear enlarging.
        norm: Makes the norms.
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int],
        channels: Sequence[int],
        outputs: int,
        fuse: str,
        align_corners: bool,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.fuse = fuse
        self.align_corners = align_corners
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width, norm) for _ in range(count)))
            for width, count in zip(channels, blocks)
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_exchange(channels, j, i, norm) for j in range(len(channels))) for i in range(outputs)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Returns the outputs (N, Ci, Hi, Wi) for one map of each branch."""
        maps = [branch(x) for branch, x in zip(self.branches, maps)]
        outputs = []
        for i, layers in enumerate(self.fuse_layers):
            total: Tensor | None = None
            for j, (layer, x) in enumerate(zip(layers, maps)):  # type: ignore[call-overload]
                x = layer(x)
                if j > i:
                    x = self._enlarge(x, maps[i], 2 ** (j - i))
                total = x if total is None else total + x
            outputs.append(F.relu(total))  # type: ignore[arg-type]
        return outputs

    def _enlarge(self, x: Tensor, like: Tensor, factor: int) -> Tensor:
        if self.fuse == "nearest":
            return F.interpolate(x, scale_factor=float(factor), mode="nearest")
        return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=self.align_corners)


class HRNet(nn.Module):
    """The network without a head.

    Args:
        bottlenecks: Blocks of the first stage, which has one branch.
        bottleneck_channels: Their inner width.
        stages: The later stages; each has one branch more than the one before, of half its last size.
        norm: Makes the norms.
        in_channels: Of the images.
        fuse: One of :data:`FUSE_MODES`.
        align_corners: Of bilinear enlarging.
        outputs: How many maps the last module makes, the finest first; 1 is HRNetV1.
        init: "kaiming", He's normal weights by the outputs of a layer (classification, detection); "normal", a
            deviation of 0.001 (segmentation, pose).

    Raises:
        ValueError: An argument is not one of those.
    """

    folds = BasicBlock.folds

    def __init__(
        self,
        *,
        bottlenecks: int,
        bottleneck_channels: int,
        stages: Sequence[Stage],
        norm: Norm,
        in_channels: int = 3,
        fuse: str = "nearest",
        align_corners: bool = False,
        outputs: int | None = None,
        init: str = "kaiming",
    ) -> None:
        super().__init__()
        for name, value, known in (("FUSE", fuse, FUSE_MODES), ("INIT", init, INITS)):
            if value not in known:
                raise ValueError(f"MODEL.HRNET.{name} is {value!r}; it must be one of {', '.join(known)}.")
        self.conv1 = conv3x3(in_channels, STEM_CHANNELS, stride=2)
        self.bn1 = norm(STEM_CHANNELS)
        self.conv2 = conv3x3(STEM_CHANNELS, STEM_CHANNELS, stride=2)
        self.bn2 = norm(STEM_CHANNELS)
        width = Bottleneck.expansion * bottleneck_channels
        self.layer1 = nn.Sequential(
            *(Bottleneck(width if k else STEM_CHANNELS, bottleneck_channels, norm) for k in range(bottlenecks))
        )
        channels: tuple[int, ...] = (width if bottlenecks else STEM_CHANNELS,)
        self.num_stages = len(stages)
        for k, stage in enumerate(stages):
            self.add_module(f"transition{k + 1}", _transition(channels, stage.channels, norm))
            channels = stage.channels
            kept = [len(channels)] * stage.modules
            if k == len(stages) - 1 and outputs is not None:
                kept[-1] = outputs
            modules = (
                HighResolutionModule(
                    blocks=stage.blocks,
                    channels=channels,
                    outputs=count,
                    fuse=fuse,
                    align_corners=align_corners,
                    norm=norm,
                )
                for count in kept
            )
            self.add_module(f"stage{k + 2}", nn.Sequential(*modules))
        self.channels = channels[:outputs]
        init_weights(self, init)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns the maps (N, Ci, Hi, Wi) of the last stage, finest first, for images (N, in_channels, H, W)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        maps = [self.layer1(x)]
        for k in range(self.num_stages):
            layers: Any = self.get_submodule(f"transition{k + 1}")
            maps = [layer(maps[min(i, len(maps) - 1)]) for i, layer in enumerate(layers)]
            maps = self.get_submodule(f"stage{k + 2}")(maps)
        return maps


def init_weights(network: nn.Module, init: str) -> None:
    """Starts the convolutions of a network in one of the ways of :data:`INITS`; biases keep torch's start."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            if init == "normal":
                nn.init.normal_(module.weight, std=0.001)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def conv3x3(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution in front of a norm."""
    return nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)


def _shortcut(in_channels: int, channels: int, norm: Norm) -> nn.Sequential | None:
    if in_channels == channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), norm(channels))


def _down(in_channels: int, channels: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(conv3x3(in_channels, channels, stride=2), norm(channels), nn.ReLU())


def _transition(before: Sequence[int], after: Sequence[int], norm: Norm) -> nn.ModuleList:
    """From the branches of one stage to those of the next; new branches come from the coarsest."""
    layers: list[nn.Module] = []
    for i, width in enumerate(after):
        if i >= len(before):
            widths = [before[-1]] * (i + 1 - len(before)) + [width]
            layers.append(nn.Sequential(*(_down(*pair, norm) for pair in pairwise(widths))))
        elif before[i] == width:
            layers.append(nn.Identity())
        else:
            layers.append(nn.Sequential(conv3x3(before[i], width), norm(width), nn.ReLU()))
    return nn.ModuleList(layers)


def _exchange(channels: Sequence[int], source: int, target: int, norm: Norm) -> nn.Module:
    """From branch ``source`` to the width of branch ``target``, and to its size unless it has to be enlarged."""
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(nn.Conv2d(channels[source], channels[target], 1, bias=False), norm(channels[target]))
    steps = [_down(channels[source], channels[source], norm) for _ in range(target - source - 1)]
    # No ReLU behind the last one: it goes into the sum.
    last = nn.Sequential(conv3x3(channels[source], channels[target], stride=2), norm(channels[target]))
    return nn.Sequential(*steps, last)
