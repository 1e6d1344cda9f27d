"""Draws what a training run has logged: losses on the left, the metrics of its evaluations on the right.

python benchmarks/learning_curves.py RUN --output curves.png --losses total_loss loss_ce --metrics bbox/AP bbox/AP50
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a training run's OUTPUT_DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the picture")
    parser.add_argument("--losses", nargs="+", default=["total_loss"], metavar="NAME", help="names in metrics.json")
    parser.add_argument("--metrics", nargs="+", default=["bbox/AP", "bbox/AP50"], metavar="NAME", help="the same")
    args = parser.parse_args()
    rows = [json.loads(line) for line in (args.run / "metrics.json").read_text(encoding="utf-8").splitlines()]
    figure, (losses, metrics) = plt.subplots(1, 2, figsize=(11, 4.2))
    draw(losses, rows, args.losses, marker=None)
    losses.set(yscale="log", title="training losses")
    draw(metrics, rows, args.metrics, marker="o")
    metrics.set(ylim=(0, 100), title="evaluations")
    figure.tight_layout()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=80)


def draw(axes: Any, rows: list[dict[str, Any]], names: list[str], marker: str | None) -> None:
    """Draws each name over the iterations in which it was logged."""
    for name in names:
        points = [(row["iteration"] + 1, row[name]) for row in rows if row.get(name) is not None]
        if not points:
            raise SystemExit(f"error: metrics.json has no {name!r}.")
        axes.plot(*zip(*points), label=name, marker=marker, linewidth=1.2)
    axes.set_xlabel("steps")
    axes.grid(alpha=0.3)
    axes.legend()


if __name__ == "__main__":
    main()
