"""From the start of the process to the end of the first training step, in parts; and what waits for data later on.

It runs ``train_net.py`` as it is, in a fresh process each time, and lets only the clock be read at the borders of the
parts: imports, configuration and set-up (which reads the data sets), the trainer (model, optimizer, loader, hooks),
weights, the first batch, the first step. ``--modules`` lists the slowest imports. Example::

    python benchmarks/start_up.py --rounds 5 -- --config-file configs/quickstart/mask_rcnn_R_18_FPN_streets.yaml
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]

# Runs train_net.py in a process whose parts report when they end.
_PROBE = """
import inspect, json, sys, time
marks = []
def mark(name):
    marks.append((name, time.time()))
def after(owner, attribute, name, end=None):
    ordinary = getattr(owner, attribute)
    def timed(*args, **kwargs):
        result = ordinary(*args, **kwargs)
        if all(known != name for known, _ in marks):
            mark(name)
            if end is not None:
                end()
        return result
    # A method of a class, once taken from it, knows the class.
    setattr(owner, attribute, staticmethod(timed) if inspect.ismethod(ordinary) else timed)
mark("Python")
sys.path.insert(0, {root!r})
sys.argv = ["train_net.py", *{words!r}]
from densekit.cli.imports import import_engine
import_engine()
mark("import torch, densekit, the host and the projects")
run = sys.modules["densekit.engine.run"]  # densekit.engine.run is its function
batches = sys.modules["densekit.engine.batches"]
trainer = sys.modules["densekit.engine.trainer"].Trainer
def first_step():
    print("MARKS " + json.dumps(marks), flush=True)
after(run, "setup", "configuration, checks of data sets")
after(trainer, "build_model", "model")
after(trainer, "build_train_loader", "optimizer, training data set")
after(trainer, "resume_or_load", "hooks, weights")
class Marked(batches.RememberedBatches):
    def __iter__(self):
        for batch in super().__iter__():
            if all(known != "first batch" for known, _ in marks):
                mark("first batch")
            yield batch
sys.modules["densekit.engine.trainer"].RememberedBatches = Marked
after(trainer, "run_step", "first step", first_step)
import train_net
train_net.main()
"""


def once(words: list[str]) -> tuple[dict[str, float], float]:
    """Seconds of each part in a fresh process, and the share of later steps that waits for data."""
    with tempfile.TemporaryDirectory() as folder:
        program = _PROBE.format(root=str(ROOT), words=[*words, "OUTPUT_DIR", folder])
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        began = time.time()
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True
        )
        found = re.search(r"^MARKS (.*)$", done.stdout, re.MULTILINE)
        if done.returncode or found is None:
            raise SystemExit(f"The run has failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        lines = [json.loads(line) for line in (Path(folder) / "metrics.json").read_text().splitlines()]
    parts, before = {}, began
    for name, when in json.loads(found[1]):
        parts[name], before = when - before, when
    later = [line for line in lines if "data_time" in line and "time" in line]
    waiting = later[-1]["data_time"] / later[-1]["time"] if later else float("nan")
    return parts, waiting


def slowest_imports(count: int) -> str:
    """The modules that take longest by themselves."""
    command = [sys.executable, "-X", "importtime", "-c", "import densekit.engine, densekit.engine.setup"]
    shown = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True).stderr
    rows = [re.match(r"import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)", line) for line in shown.splitlines()]
    own = sorted(((int(row[1]), int(row[2]), row[3]) for row in rows if row), reverse=True)[:count]
    return tabulate(
        [[name, a / 1e3, b / 1e3] for a, b, name in own], ["module", "alone, ms", "with what it imports, ms"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=60, help="of training; waiting for data is the median of the last 20"
    )
    parser.add_argument("--modules", type=int, default=0, metavar="N", help="list the N slowest imports too")
    parser.add_argument("words", nargs="+", help="the command line of train_net.py, after --")
    args = parser.parse_args()
    fixed = ["SOLVER.MAX_ITER", str(args.steps), "DATASETS.TEST", "()", "TEST.EVAL_PERIOD", "0"]
    runs = [once([*args.words, *fixed]) for _ in range(args.rounds)]
    rows = [[name, statistics.median(parts[name] for parts, _ in runs)] for name in runs[0][0]]
    rows.append(["to the end of the first step", statistics.median(sum(parts.values()) for parts, _ in runs)])
    print(f"Seconds, medians of {args.rounds} rounds:")
    print(tabulate(rows, floatfmt=".2f"))
    print(f"Later steps wait {statistics.median(waiting for _, waiting in runs):.1%} of their time for data.")
    if args.modules:
        print(slowest_imports(args.modules))


if __name__ == "__main__":
    main()
