"""The same schedule with several configurations and seeds: one table of means and spreads, for claims about learning.

Each run is ``train_net.py`` in a process of its own. Finished runs are kept, interrupted ones go on, so the command can
be repeated until the table is complete. Example::

    python benchmarks/compare_configs.py --seeds 1 2 3 --metrics bbox/AP segm/AP --output output/compare --jobs 2 \
        --configs configs/quickstart/mask_rcnn_R_18_FPN_streets.yaml FILE FILE --opts SOLVER.MAX_ITER 800
"""

import argparse
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm
from trainings import minutes, results, train


def main() -> None:
    """Runs what is missing, then prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", required=True, metavar="FILE", help="the first one is the baseline")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--metrics", nargs="+", default=["bbox/AP", "segm/AP"], help="<task>/<name> of results.json")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each (default: 1)")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="for every run")
    args = parser.parse_args()
    runs = [(config, seed) for seed in args.seeds for config in args.configs]
    with ThreadPoolExecutor(args.jobs) as pool:
        work = pool.map(
            lambda job: train(job[0], folder_of(args.output, *job), [*args.opts, "SEED", str(job[1])]), runs
        )
        for _ in tqdm(work, total=len(runs), desc="runs", unit="run"):
            pass
    rows = [row(config, args.seeds, args.metrics, args.output) for config in args.configs]
    print(
        tabulate(rows, headers=["config", *args.metrics, "processor minutes"], tablefmt="github", disable_numparse=True)
    )


def folder_of(output: Path, config: str, seed: int) -> Path:
    return output / f"{Path(config).stem}_seed{seed}"


def row(config: str, seeds: Sequence[int], metrics: Sequence[str], output: Path) -> list[str]:
    """Mean and standard deviation over the seeds, and the single values."""
    folders = [folder_of(output, config, seed) for seed in seeds]
    found = [results(folder) for folder in folders]
    cells = [Path(config).stem]
    for metric in metrics:
        task, name = metric.split("/")
        values = [result[task][name] for result in found]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        cells.append(f"{statistics.mean(values):.1f} ± {spread:.1f} ({', '.join(f'{value:.1f}' for value in values)})")
    return [*cells, f"{statistics.median(map(minutes, folders)):.1f}"]


if __name__ == "__main__":
    main()
