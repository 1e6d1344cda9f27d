"""Draws where region pooling samples for a box, and prints the distance that it moves the box by.

  python -m densekit.projects.rcnn.draw_pooling --box 0 0 665 665 --stride 32 --bins 7 --output pooling.png
  python -m densekit.projects.rcnn.draw_pooling --box 0 3 6 7 --stride 1 --bins 2 --map 8 8 --output pooling.png

The dashed line is the box, the grid inside it what the pooler divides into bins, and the dots are its samples.
RoIPool and RoIWarp round the corners to cells; --rounding floor drops the started cell, as many explanations do.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tabulate import tabulate

from densekit.engine.errors import user_errors
from densekit.files.atomic import atomic_write
from densekit.layers.region_samples import POOLERS, ROUNDINGS, RegionSamples, region_samples

_PANEL = 3.6  # inches
_EDGES = ("left", "top", "right", "bottom")


def draw_pooling(found: dict[str, RegionSamples], size: tuple[int, int], bins: tuple[int, int]) -> Figure:
    """One panel for each pooler.

    Args:
        found: samples by the pooler's name.
        size: (height, width) of the map, in cells.
        bins: (h, w).
    """
    height, width = size
    figure = Figure(figsize=(_PANEL * len(found), _PANEL * max(height / width, 0.3) + 0.6), layout="constrained")
    for axes, (name, samples) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items()):
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", title=name)
        axes.set_xticks(range(width + 1), [])
        axes.set_yticks(range(height + 1), [])
        axes.grid(color="0.85", linewidth=0.6)
        x0, y0, x1, y1 = samples.region
        for x in np.linspace(x0, x1, bins[1] + 1):
            axes.plot([x, x], [y0, y1], color="tab:blue", linewidth=1)
        for y in np.linspace(y0, y1, bins[0] + 1):
            axes.plot([x0, x1], [y, y], color="tab:blue", linewidth=1)
        left, top, right, low = samples.exact
        axes.add_patch(Rectangle((left, top), right - left, low - top, fill=False, linestyle="--", color="black"))
        x, y = np.concatenate(samples.points).T
        axes.scatter(x, y, s=6, color="tab:red", zorder=3)
    return figure


def pooling_table(found: dict[str, RegionSamples]) -> str:
    """Corners in cells and the movement of each edge in image pixels, a line for each pooler."""
    rows = [
        [name, *np.round(samples.exact, 2), *np.round(samples.placed, 2), *np.round(samples.moved, 2)]
        for name, samples in found.items()
    ]
    heads = [f"{edge} {what}" for what in ("in cells", "taken", "moved, px") for edge in _EDGES]
    return tabulate(rows, headers=["pooler", *heads], tablefmt="simple")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--box", type=float, nargs=4, required=True, metavar=("X0", "Y0", "X1", "Y1"), help="in pixels")
    parser.add_argument("--stride", type=float, default=16, help="image pixels per cell of the map (%(default)s)")
    parser.add_argument("--bins", type=int, default=7, help="bins along each side (%(default)s)")
    parser.add_argument(
        "--map", type=int, nargs=2, metavar=("H", "W"), help="cells of the map; by default up to the box"
    )
    parser.add_argument(
        "--poolers", nargs="+", default=list(POOLERS), choices=POOLERS, metavar="NAME", help="of " + ", ".join(POOLERS)
    )
    parser.add_argument("--sampling-ratio", type=int, default=2, help="of RoIAlign; 0 for as many as a bin has cells")
    parser.add_argument("--rounding", choices=ROUNDINGS, default=ROUNDINGS[0], help="of RoIPool and RoIWarp")
    parser.add_argument("--output", type=Path, help="the PNG to write; without it only the table is printed")
    args = parser.parse_args(argv)
    bins = (args.bins, args.bins)
    options = {"stride": args.stride, "bins": bins, "sampling_ratio": args.sampling_ratio, "rounding": args.rounding}
    found = {name: region_samples(name, args.box, **options) for name in args.poolers}
    print(pooling_table(found))
    if args.output:
        far = np.max([samples.region for samples in found.values()], axis=0)
        size = tuple(args.map) if args.map else (int(np.ceil(far[3])) + 1, int(np.ceil(far[2])) + 1)
        with atomic_write(args.output, "wb") as file:
            draw_pooling(found, size, bins).savefig(file, format="png", dpi=110)
        print(f"The drawing is {args.output}")
    return 0


if __name__ == "__main__":
    with user_errors():
        sys.exit(main())
