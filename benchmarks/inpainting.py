"""Processor time of partial convolution against two plain ones, and CARAFE's share of a generator.

The works of a comparison take turns, and which goes first alternates; ratios are taken within each round and their
median is reported. Times are the process's own, forward and backward passes. Example::

    python benchmarks/inpainting.py --rounds 9 --size 128
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from densekit.layers import build_upsampler
from densekit.layers.partial_conv import PartialConv2d
from densekit.projects.inpainting.global_local import GlobalLocal
from densekit.projects.inpainting.masked_upsampling import MaskedUpsampler
from densekit.projects.inpainting.partial_unet import PartialUNet

Work = Callable[[], object]
_WIDTHS = {
    "full": ((64, 128, 256, 32), (64, 128, 256, 512, 512, 512, 512)),
    "small": ((16, 24, 48, 12), (16, 32, 48, 64, 64)),
}


def seconds(work: Work) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def medians(works: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Name -> seconds of each round; the first round, which allocates, is left out."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        names = list(works) if number % 2 else list(works)[::-1]
        for name in names:
            taken = seconds(works[name])
            if number:
                found[name].append(taken)
    return found


def partial_convolutions(rounds: int, size: int) -> None:
    for channels, kernel, side in ((64, 7, size), (128, 5, size // 2), (256, 3, size // 4), (512, 3, size // 16)):
        side = max(side, 8)
        mask = (torch.rand(1, 1, side, side) > 0.3).float()
        compare_convolutions(rounds, channels, kernel, mask, "one mask")
        compare_convolutions(
            rounds, channels, kernel, mask.expand(-1, channels, -1, -1).contiguous(), "one per channel"
        )


def compare_convolutions(rounds: int, channels: int, kernel: int, mask: torch.Tensor, kind: str) -> None:
    partial = PartialConv2d(channels, channels, kernel, padding=kernel // 2)
    plain = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
    side = mask.shape[-1]
    x = torch.randn(1, channels, side, side, requires_grad=True)
    works: dict[str, Work] = {
        "partial": lambda: partial(x, mask)[0].sum().backward(),
        "plain": lambda: plain(x).sum().backward(),
    }
    taken = medians(works, rounds)
    ratio = statistics.median(a / b for a, b in zip(taken["partial"], taken["plain"]))
    print(
        f"{channels} channels, {kernel}x{kernel}, {side}x{side}, {kind}: "
        f"{1e3 * statistics.median(taken['partial']):.1f} ms, {ratio:.2f} x one plain convolution, "
        f"{ratio / 2:.2f} x two (at most 1.30)"
    )


class _Timed(nn.Module):
    """An upsampling layer whose forward passes are timed."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.spent = 0.0

    def forward(self, *inputs: torch.Tensor) -> object:
        begin = time.process_time()
        output = self.layer(*inputs)
        self.spent += time.process_time() - begin
        return output


def shares(rounds: int, size: int, widths: str) -> None:
    """The share of upsampling in a forward pass, and what CARAFE adds to a step."""
    names = {"Global&Local": 0, "U-Net": 1}
    for name, index in names.items():
        steps: dict[str, Work] = {}
        timed: dict[str, list[_Timed]] = {}
        for upsampler in ("carafe", "nearest" if index else "deconv"):
            generator = _generator(index, _WIDTHS[widths][index], upsampler).train()
            timed[upsampler] = _time_upsamplers(generator)
            divisor = generator.size_divisibility
            side = -(-size // divisor) * divisor
            image, hole = torch.randn(2, 3, side, side), torch.zeros(2, 1, side, side)
            hole[:, :, side // 4 : side // 2, side // 4 : side // 2] = 1
            steps[upsampler] = lambda g=generator, i=image, h=hole: g(i, h).mean().backward()
            steps[f"{upsampler} forward"] = lambda g=generator, i=image, h=hole: g(i, h).detach()
        taken = medians(steps, rounds)
        for part in timed["carafe"]:
            part.spent = 0.0
        whole = sum(seconds(steps["carafe forward"]) for _ in range(rounds))
        share = sum(part.spent for part in timed["carafe"]) / whole
        own = "nearest" if index else "deconv"
        ratio = statistics.median(a / b for a, b in zip(taken["carafe"], taken[own]))
        print(
            f"{name}, {widths} width, 2 x {size}x{size}: CARAFE is {100 * share:.0f} % of the forward pass; a step "
            f"takes {statistics.median(taken['carafe']):.3f} s, {ratio:.2f} x that with {own}"
        )


def _generator(index: int, widths: tuple[int, ...], upsampler: str) -> nn.Module:
    if index:
        return PartialUNet(widths=widths, upsampler=lambda channels: build_upsampler(upsampler, channels))
    if upsampler == "deconv":
        return GlobalLocal(widths=widths)
    return GlobalLocal(widths=widths, upsampler=lambda channels: build_upsampler(upsampler, channels))


def _time_upsamplers(generator: nn.Module) -> list[_Timed]:
    if isinstance(generator, PartialUNet):
        generator.upsamplers = nn.ModuleList(_Timed(layer) for layer in generator.upsamplers)
        assert all(isinstance(timed.layer, MaskedUpsampler) for timed in generator.upsamplers)
        return list(generator.upsamplers)
    generator.up1, generator.up2 = _Timed(generator.up1), _Timed(generator.up2)
    return [generator.up1, generator.up2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=128, help="side of the pictures")
    parser.add_argument("--widths", choices=list(_WIDTHS), default="small", help="of the generators")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    partial_convolutions(args.rounds, args.size)
    shares(args.rounds, args.size, args.widths)


if __name__ == "__main__":
    main()
