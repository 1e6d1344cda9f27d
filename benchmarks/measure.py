"""Trains the small configurations that results/*.json list, and writes what was measured into these files.

A row with the key ``run`` says what to train; results/README.md has its form. A finished run is kept, an interrupted
one goes on, so the command can be repeated until all is measured. Rows of data that no --data names stay as they are.
Each training has one thread. Then ``make tables`` writes the tables of the pages. Example::

    python benchmarks/measure.py --list
    python benchmarks/measure.py --data bccd=bccd.yaml camvid=camvid.yaml --output output/results yolov6_bccd
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from trainings import ROOT, minutes, results, train

from densekit import load_model
from densekit.config import load_config
from densekit.data.own.catalog import register_entries
from densekit.engine import Trainer
from densekit.files.atomic import atomic_write

Json = dict[str, Any]
_PICTURES = 20  # that the time of one picture is the median of, after a few to warm up
_PROBES = (10, 30)  # steps of two short runs, whose difference is the time of a step
_SCENES = "streets"  # the data that this tree makes itself


def main() -> None:
    """Measures what was asked for, one row after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", metavar="ID", help="rows to measure (all that have the key run)")
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=YAML", help="own data sets that rows name")
    parser.add_argument("--output", type=Path, default=Path("output/results"), help="folder of the runs")
    parser.add_argument("--list", action="store_true", help="list the rows and stop")
    args = parser.parse_args()
    rows = dict(planned())
    if unknown := set(args.ids) - set(rows):
        parser.error(f"no row of results/*.json has the key run and the id {', '.join(sorted(unknown))}")
    data = {_SCENES: "", **dict(word.split("=", 1) for word in args.data)}
    chosen = {name: path for name, path in rows.items() if name in (args.ids or rows)}
    if args.list:
        for name, path in chosen.items():
            run = row_of(path, name)["run"]
            print(f"{name:28} {run.get('data', _SCENES):10} {run['config']}")
        return
    for name, path in (bar := tqdm(chosen.items(), desc="rows", unit="row")):
        needed = row_of(path, name)["run"].get("data", _SCENES)
        if needed not in data:
            bar.write(f"{name}: left, as --data names no {needed}=FILE.yaml", file=sys.stderr)
            continue
        figures = measure(row_of(path, name), data[needed], args.output)
        record(path, name, figures, needed)
        bar.write(f"{name}: {figures}", file=sys.stderr)


def planned() -> Iterator[tuple[str, Path]]:
    """Yields the id of each row that can be measured, and its file."""
    for path in sorted((ROOT / "results").glob("*.json")):
        yield from ((row["id"], path) for row in json.loads(path.read_text())["rows"] if "run" in row)


def row_of(path: Path, name: str) -> Json:
    return next(row for row in json.loads(path.read_text())["rows"] if row.get("id") == name)


def measure(row: Json, datasets: str, output: Path) -> Json:
    """Trains, evaluates and times one row, and returns its figures; of several seeds the mean and the spread.

    Args:
        row: with the key ``run``.
        datasets: YAML of own data sets; "" where the configuration's are known.
        output: folder of the runs.
    """
    run, folder = row["run"], output / row["id"]
    words = ["--datasets", str(Path(datasets).resolve())] if datasets else []
    opts = list(run.get("opts", []))
    if "minutes" in run:
        opts += schedule(run, words + opts, folder)
    seeds = run.get("seeds", [])
    folders = {folder / f"seed_{seed}": ["SEED", str(seed)] for seed in seeds} or {folder: []}
    for one, seed in folders.items():
        train(run["config"], one, [*words, *opts, *seed])
    figures: Json = {}
    for name, metric in run["metrics"].items():
        task, key = metric.split("/", 1)
        values = [results(one)[task][key] for one in folders]
        figures[name] = round(statistics.mean(values), 2)
        if seeds:
            figures[f"{name}_spread"] = round(statistics.stdev(values), 2)
    last = [*folders][-1]
    cfg = load_config(str(last / "config.yaml"))
    shown = json.dumps(row)
    if "{steps}" in shown:
        figures["steps"] = int(cfg.SOLVER.MAX_ITER)
    if "{minutes}" in shown:
        figures["minutes"] = round(statistics.mean(minutes(one) for one in folders), 1)
    if "{parameters}" in shown or "{ms}" in shown:
        milliseconds, parameters = speed_and_size(last, datasets)
        figures |= {"ms": round(milliseconds), "parameters": round(parameters / 1e6, 2)}
    return figures


def schedule(run: Json, words: list[str], folder: Path) -> list[str]:
    """Returns the length of a training that takes so many minutes of one core, with all its milestones moved along."""
    plan = folder / "schedule.json"
    if plan.is_file():
        return json.loads(plan.read_text())
    seconds = []
    for steps in _PROBES:
        probe = folder.with_name(f"{folder.name}_probe_{steps}")
        fixed = ["SOLVER.MAX_ITER", str(steps), "TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "()"]
        train(run["config"], probe, [*words, *fixed], evaluated=False)
        seconds.append(60 * minutes(probe))
    step = (seconds[1] - seconds[0]) / (_PROBES[1] - _PROBES[0])
    cfg = load_config(run["config"])
    length = max(int(60 * run["minutes"] / step), _PROBES[1])
    scale = length / cfg.SOLVER.MAX_ITER
    milestones = tuple(int(one * scale) for one in cfg.SOLVER.STEPS if one < cfg.SOLVER.MAX_ITER)
    words = ["SOLVER.MAX_ITER", str(length), "SOLVER.STEPS", str(milestones), "TEST.EVAL_PERIOD", "0"]
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(plan) as file:
        json.dump(words, file)
    return words


def speed_and_size(folder: Path, datasets: str) -> tuple[float, int]:
    """Milliseconds of one core for a picture of the test set, decoded beforehand, and the number of parameters."""
    torch.set_num_threads(1)
    if datasets:
        register_entries(datasets)
    cfg = load_config(str(folder / "config.yaml"))
    loader = Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])
    batches = list(islice(iter(loader), _PICTURES))
    parameters = sum(one.numel() for one in load_model(folder, optimized=False).parameters())
    model, times = load_model(folder), []
    with torch.no_grad():
        for batch in [*batches[:3], *batches]:
            began = time.process_time()
            model(batch)
            times.append(time.process_time() - began)
    return 1000 * statistics.median(times[3:]), parameters


def record(path: Path, name: str, figures: Json, data: str) -> None:
    """Writes figures into a row, with the command, the machine and the date."""
    file = json.loads(path.read_text())
    row = next(row for row in file["rows"] if row.get("id") == name)
    given = "" if data == _SCENES else f" --data {data}={data}.yaml"
    row |= {
        "figures": figures,
        "configs": [row["run"]["config"]],
        "command": f"python benchmarks/measure.py{given} {name}",
        "machine": machine(),
        "software": f"Python {platform.python_version()}, torch {torch.__version__.partition('+')[0]}",
        "seeds": row["run"].get("seeds"),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
    }
    with atomic_write(path) as out:
        out.write(json.dumps(file, indent=1, ensure_ascii=False) + "\n")


def machine() -> str:
    """The processor in words."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"one core of {len(os.sched_getaffinity(0))} of {model or platform.processor() or platform.machine()}"


def commit() -> str:
    shown = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return shown.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
