"""The same schedule with several configurations and seeds: one table of means and spreads, for claims about learning.

Each run is ``train_net.py`` in a process of its own. Finished runs are kept, interrupted ones go on, so the command can
be repeated until the table is complete. Example::

    python benchmarks/compare_configs.py --seeds 1 2 3 --metrics bbox/AP segm/AP --output output/compare --jobs 2 \
        --configs configs/quickstart/mask_rcnn_R_18_FPN_streets.yaml FILE FILE --opts SOLVER.MAX_ITER 800
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]


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
        work = pool.map(lambda job: run(*job, args.output, args.opts), runs)
        for _ in tqdm(work, total=len(runs), desc="runs", unit="run"):
            pass
    rows = [row(config, args.seeds, args.metrics, args.output) for config in args.configs]
    print(tabulate(rows, headers=["config", *args.metrics, "minutes"], tablefmt="github", disable_numparse=True))


def folder_of(output: Path, config: str, seed: int) -> Path:
    return output / f"{Path(config).stem}_seed{seed}"


def run(config: str, seed: int, output: Path, opts: Sequence[str]) -> None:
    """Trains and evaluates once, unless that has been done; the time is added up over interruptions."""
    folder = folder_of(output, config, seed)
    if results_file(folder).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "train_net.py", "--config-file", config, "--resume", *opts]
    command += ["SEED", str(seed), "OUTPUT_DIR", str(folder.resolve())]
    begin = time.monotonic()
    with (folder / "console.txt").open("a") as console:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=console, stderr=console).returncode
    spent = folder / "seconds.txt"
    total = (float(spent.read_text()) if spent.is_file() else 0.0) + time.monotonic() - begin
    spent.write_text(f"{total:.1f}\n")
    if code:
        raise SystemExit(f"{' '.join(command)} ended with code {code}; see {folder / 'console.txt'}")


def results_file(folder: Path) -> Path:
    return folder / "inference" / "results.json"


def row(config: str, seeds: Sequence[int], metrics: Sequence[str], output: Path) -> list[str]:
    """Mean and standard deviation over the seeds, and the single values."""
    folders = [folder_of(output, config, seed) for seed in seeds]
    results = [next(iter(json.loads(results_file(folder).read_text()).values())) for folder in folders]
    cells = [Path(config).stem]
    for metric in metrics:
        task, name = metric.split("/")
        values = [result[task][name] for result in results]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        cells.append(f"{statistics.mean(values):.1f} ± {spread:.1f} ({', '.join(f'{value:.1f}' for value in values)})")
    minutes = statistics.median(float((folder / "seconds.txt").read_text()) / 60 for folder in folders)
    return [*cells, f"{minutes:.1f}"]


if __name__ == "__main__":
    main()
