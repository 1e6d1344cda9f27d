"""EfficientRep and its necks, Rep-PAN and RepBi-PAN. YOLOv6, arXiv 2209.02976, sections 2.1.1 and 2.1.2.

RepBi-PAN is of the later releases: "YOLOv6 v3.0: A Full-Scale Reloading" (arXiv 2301.05586), section 2.1.

Plain torch. Shapes: an image (N, 3, H, W); a level of stride s is (N, C, H / s, W / s); levels are finest first.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import ThreeScaleFusion, make_pool, make_stage
from .units import ConvNorm, get_unit

BODY_CHANNELS = (64, 128, 256, 512, 1024)  # of the stem and the stages of stride 4 .. 32, before the width factor
NECK_TOP_DOWN = (256, 128)  # coarsest first
NECK_BOTTOM_UP = (256, 512)  # finest first


def scaled_width(channels: float, width: float) -> int:
    """Channels times the width factor, rounded up to a multiple of 8."""
    return math.ceil(channels * width / 8) * 8


def scaled_depth(count: int, depth: float) -> int:
    """Units times the depth factor, rounded to the nearest; a single one stays."""
    return max(round(count * depth), 1) if count > 1 else count


class EfficientRep(nn.Module):
    """The backbone: a stem and four stages that halve the size, and a pooling pyramid at the end.

    Args:
        channels: of the stem and of each stage.
        counts: units of each stage.
        stage: kind of the stages, ``"rep"``, ``"csp"`` or ``"mbla"``.
        unit: name of the units.
        expansion: of the stages that have a narrower inside.
        pool: kind of the pooling pyramid.
        in_channels: of the images.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        counts: Sequence[int],
        stage: str,
        unit: str,
        expansion: float,
        pool: str,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        make = get_unit(unit)
        self.stem = make(in_channels, channels[0], stride=2)
        # Named by the logarithm of their stride.
        self.stages = nn.ModuleDict()
        for level, (before, width, count) in enumerate(zip(channels, channels[1:], counts), start=2):
            body = make_stage(stage, width, width, count=count, unit=unit, expansion=expansion)
            self.stages[str(level)] = nn.ModuleDict({"down": make(before, width, stride=2), "body": body})
        self.pool = make_pool(pool, channels[-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps of stride 4, 8, 16 and 32 of an image."""
        x, outputs = self.stem(x), []
        for stage in self.stages.values():
            x = stage["body"](stage["down"](x))  # type: ignore[index]
            outputs.append(x)
        outputs[-1] = self.pool(outputs[-1])
        return outputs


class RepPAN(nn.Module):
    """A path from the coarsest level to the finest and one back, of stages of units.

    Args:
        in_channels: of L levels; with ``finer`` the level below the finest is before them.
        top_down: channels of the L - 1 levels that are refined on the way down, coarsest first.
        bottom_up: channels of the L - 1 levels on the way up, finest first.
        counts: units of each of the 2 (L - 1) stages, in the order of the path.
        stage: kind of the stages.
        unit: name of the units.
        expansion: of the stages that have a narrower inside.
        finer: RepBi-PAN: each level of the way down also sees the one below it.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        top_down: Sequence[int],
        bottom_up: Sequence[int],
        counts: Sequence[int],
        stage: str,
        unit: str,
        expansion: float,
        finer: bool,
    ) -> None:
        super().__init__()
        steps, levels = len(top_down), list(in_channels)
        self.finer = finer
        self.reduce, self.join, self.down = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.shrink, self.up = nn.ModuleList(), nn.ModuleList()
        width = levels[-1]
        reduced = []
        for step, out in enumerate(top_down):
            self.reduce.append(ConvNorm(width, out, kernel=1))
            reduced.append(out)
            same, fine = levels[-2 - step], levels[-3 - step] if finer else 0
            if finer:
                joined = ThreeScaleFusion(coarse_channels=out, same_channels=same, fine_channels=fine, out_channels=out)
                self.join.append(joined)
            else:
                self.join.append(nn.ConvTranspose2d(out, out, 2, 2))
            wide = out if finer else out + same
            self.down.append(make_stage(stage, wide, out, count=counts[step], unit=unit, expansion=expansion))
            width = out
        self.out_channels = [width]
        for step, out in enumerate(bottom_up):
            beside = reduced[-1 - step]
            self.shrink.append(ConvNorm(width, beside, stride=2))
            count = counts[steps + step]
            self.up.append(make_stage(stage, 2 * beside, out, count=count, unit=unit, expansion=expansion))
            self.out_channels.append(out)
            width = out

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Refined levels, finest first.

        Args:
            levels: as ``in_channels`` has them, each of twice the stride of the one before.
        """
        x, reduced = levels[-1], []
        for step, (reduce, join, stage) in enumerate(zip(self.reduce, self.join, self.down)):
            small = reduce(x)
            reduced.append(small)
            same = levels[-2 - step]
            x = join(small, same, levels[-3 - step]) if self.finer else torch.cat([join(small), same], 1)
            x = stage(x)
        outputs = [x]
        for shrink, stage, beside in zip(self.shrink, self.up, reversed(reduced)):
            outputs.append(stage(torch.cat([shrink(outputs[-1]), beside], 1)))
        return outputs


def body_options(*, depth: float, width: float, stage: str) -> dict[str, list[int]]:
    """Channels and counts of :class:`EfficientRep` of a size.

    Args:
        depth: factor of the units.
        width: factor of the channels.
        stage: kind of the stages.
    """
    return {
        "channels": [scaled_width(channels, width) for channels in BODY_CHANNELS],
        "counts": [scaled_depth(count, depth) for count in _counts(stage)[0]],
    }


def neck_options(*, depth: float, width: float, stage: str) -> dict[str, list[int]]:
    """Channels and counts of :class:`RepPAN` on three levels, of a size; arguments as of :func:`body_options`."""
    return {
        "top_down": [scaled_width(channels, width) for channels in NECK_TOP_DOWN],
        "bottom_up": [scaled_width(channels, width) for channels in NECK_BOTTOM_UP],
        "counts": [scaled_depth(_counts(stage)[1], depth)] * 4,
    }


def _counts(stage: str) -> tuple[tuple[int, ...], int]:
    """Units of the stages of the body and of each of the neck, before the depth factor."""
    return ((4, 8, 8, 4), 8) if stage == "mbla" else ((6, 12, 18, 6), 12)
