"""Stages of units, pooling pyramids and what joins maps of three sizes. YOLOv6, arXiv 2209.02976, section 2.1.

Plain torch. Shapes: a block maps (N, C, H, W) to (N, C', H, W).
"""

from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .units import ConvNorm, activation_of, get_unit


class Bottle(nn.Module):
    """Units in a row, and a shortcut around them with a learned factor where the width stays.

    The authors' optimizer leaves the factor out, so that it stays 1, and so does ours.

    Args:
        in_channels: C.
        out_channels: C'.
        unit: name of the units.
        depth: how many.
        weighted: the shortcut has a factor.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, unit: str, depth: int = 2, weighted: bool = True
    ) -> None:
        super().__init__()
        make, self.depth = get_unit(unit), depth
        for number in range(1, depth + 1):
            self.add_module(f"unit{number}", make(in_channels if number == 1 else out_channels, out_channels))
        self.alpha = nn.Parameter(torch.ones(1)) if weighted and in_channels == out_channels else None
        self.shortcut = in_channels == out_channels

    def parameter_options(self, name: str, parameter: nn.Parameter) -> dict[str, float]:
        """Returns the parameter's options in the optimizer: the factor of the shortcut is not trained."""
        return {"lr_factor": 0.0, "weight_decay": 0.0} if name == "alpha" else {}

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in range(1, self.depth + 1):
            y = self.get_submodule(f"unit{number}")(y)
        if not self.shortcut:
            return y
        return y + (x if self.alpha is None else self.alpha * x)


class UnitStack(nn.Module):
    """RepBlock: units, or bottles of two units each, in a row.

    Args:
        in_channels: C.
        out_channels: C'.
        count: of units; of bottles there are half as many, rounded down.
        unit: name of the units.
        bottles: whether they are in bottles.
    """

    def __init__(self, in_channels: int, out_channels: int, *, count: int, unit: str, bottles: bool = False) -> None:
        super().__init__()
        make = partial(Bottle, unit=unit) if bottles else get_unit(unit)
        number = count // 2 if bottles else count
        self.first = make(in_channels, out_channels)
        self.rest = nn.Sequential(*(make(out_channels, out_channels) for _ in range(number - 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x))


class CSPStack(nn.Module):
    """CSPStackRep (Figure 3c): bottles on one half of the channels, the other half beside them.

    Args:
        in_channels: C.
        out_channels: C'.
        count: units on the one half.
        unit: name of the units.
        expansion: width of a half, as a share of C'.
    """

    def __init__(self, in_channels: int, out_channels: int, *, count: int, unit: str, expansion: float = 0.5) -> None:
        super().__init__()
        width, activation = int(out_channels * expansion), activation_of(unit)
        self.enter = ConvNorm(in_channels, width, kernel=1, activation=activation)
        self.beside = ConvNorm(in_channels, width, kernel=1, activation=activation)
        self.stack = UnitStack(width, width, count=count, unit=unit, bottles=True)
        self.leave = ConvNorm(2 * width, out_channels, kernel=1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.cat([self.stack(self.enter(x)), self.beside(x)], 1))


class MultiBranchStack(nn.Module):
    """MBLA, of the later releases: branches of growing depth whose every intermediate map reaches the output.

    One part of the channels goes on as it is; one branch has half of the bottles of three units, one has all. Where
    there is one bottle there is one branch. Recorded are depths of one and two.

    Args:
        in_channels: C.
        out_channels: C'.
        count: units; bottles of the deepest branch are half as many.
        unit: name of the units.
        expansion: width of a branch, as a share of C'.
    """

    def __init__(self, in_channels: int, out_channels: int, *, count: int, unit: str, expansion: float = 0.5) -> None:
        super().__init__()
        width, deepest = int(out_channels * expansion), max(count // 2, 1)
        depths = [deepest] if deepest == 1 else [(deepest + 1) // 2, deepest]
        activation = activation_of(unit)
        self.enter = ConvNorm(in_channels, width * (1 + len(depths)), kernel=1, activation=activation)
        self.branches = nn.ModuleList(
            nn.ModuleList(Bottle(width, width, unit=unit, depth=3) for _ in range(depth)) for depth in depths
        )
        outputs = 1 + len(depths) + sum(depths)
        self.leave = ConvNorm(width * outputs, out_channels, kernel=1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = self.enter(x).chunk(1 + len(self.branches), 1)
        outputs = [first]
        for part, branch in zip(rest, self.branches):
            outputs.append(part)
            for bottle in cast(nn.ModuleList, branch):
                outputs.append(bottle(outputs[-1]))
        return self.leave(torch.cat(outputs, 1))


class PoolingPyramid(nn.Module):
    """SPPF: 5x5 maxima of maxima of maxima, side by side. SimSPPF is the one with ReLU.

    Args:
        in_channels: C.
        out_channels: C'.
        activation: ``"relu"`` or ``"silu"``.
    """

    def __init__(self, in_channels: int, out_channels: int, *, activation: str) -> None:
        super().__init__()
        width = in_channels // 2
        self.enter = ConvNorm(in_channels, width, kernel=1, activation=activation)
        self.leave = ConvNorm(4 * width, out_channels, kernel=1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(_pooled(self.enter(x)))


class CSPPoolingPyramid(nn.Module):
    """SimCSPSPPF, of the later releases: the pooling pyramid between convolutions, and a branch beside it.

    Args:
        in_channels: C.
        out_channels: C'.
        activation: ``"relu"`` or ``"silu"``.
    """

    def __init__(self, in_channels: int, out_channels: int, *, activation: str) -> None:
        super().__init__()
        width = out_channels // 2

        def conv(channels: int, kernel: int, out: int = width) -> ConvNorm:
            return ConvNorm(channels, out, kernel=kernel, activation=activation)

        self.before = nn.Sequential(conv(in_channels, 1), conv(width, 3), conv(width, 1))
        self.after = nn.Sequential(conv(4 * width, 1), conv(width, 3))
        self.beside = conv(in_channels, 1)
        self.leave = conv(2 * width, 1, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.cat([self.beside(x), self.after(_pooled(self.before(x)))], 1))


def _pooled(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, 4 C, H, W): the map, and maxima of windows of 5, 9 and 13."""
    maps = [x]
    for _ in range(3):
        maps.append(F.max_pool2d(maps[-1], 5, stride=1, padding=2))
    return torch.cat(maps, 1)


class ThreeScaleFusion(nn.Module):
    """Bidirectional concatenation of the later releases: a coarser, an equal and a finer map become one.

    Args:
        coarse_channels: of the map of half the size; it keeps them as it is enlarged.
        same_channels: of the map of the same size.
        fine_channels: of the map of twice the size.
        out_channels: C'.
    """

    def __init__(self, *, coarse_channels: int, same_channels: int, fine_channels: int, out_channels: int) -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose2d(coarse_channels, out_channels, 2, 2)
        self.same = ConvNorm(same_channels, out_channels, kernel=1)
        self.fine = ConvNorm(fine_channels, out_channels, kernel=1)
        self.shrink = ConvNorm(out_channels, out_channels, stride=2)
        self.leave = ConvNorm(3 * out_channels, out_channels, kernel=1)

    def forward(self, coarse: Tensor, same: Tensor, fine: Tensor) -> Tensor:
        """Maps (N, Cc, H / 2, W / 2), (N, Cs, H, W) and (N, Cf, 2 H, 2 W) to (N, C', H, W)."""
        maps = [self.enlarge(coarse), self.same(same), self.shrink(self.fine(fine))]
        return self.leave(torch.cat(maps, 1))


STAGES: dict[str, type[nn.Module]] = {"rep": UnitStack, "csp": CSPStack, "mbla": MultiBranchStack}
POOLS: dict[str, tuple[type[nn.Module], str]] = {
    "simsppf": (PoolingPyramid, "relu"),
    "sppf": (PoolingPyramid, "silu"),
    "simcspsppf": (CSPPoolingPyramid, "relu"),
    "cspsppf": (CSPPoolingPyramid, "silu"),
}


def make_stage(kind: str, in_channels: int, out_channels: int, *, count: int, unit: str, expansion: float) -> nn.Module:
    """A stage of a kind of :data:`STAGES`; the expansion is that of kinds with a narrower inside.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in STAGES:
        raise ValueError(f"MODEL.YOLOV6.STAGE is {kind!r}; it can be one of {', '.join(STAGES)}.")
    options = {} if kind == "rep" else {"expansion": expansion}
    return STAGES[kind](in_channels, out_channels, count=count, unit=unit, **options)


def make_pool(kind: str, channels: int) -> nn.Module:
    """A pooling pyramid of a kind of :data:`POOLS` that keeps the channels.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in POOLS:
        raise ValueError(f"MODEL.YOLOV6.POOL is {kind!r}; it can be one of {', '.join(POOLS)}.")
    made, activation = POOLS[kind]
    return made(channels, channels, activation=activation)
