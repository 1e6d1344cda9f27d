"""Kills ``densekit predict`` with SIGKILL at random moments, reruns it, and compares with an uninterrupted run.

A moment is a random number of finished pictures and a random fraction of a second more; the last two lie in the
writing at the end. Every second kill hits the first process alone, whose helpers then find themselves orphans; the
others hit all processes at once. Example::

    python benchmarks/predict_kill.py output/demo --input datasets/streets/val --kills 10
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tabulate import tabulate

FORMATS = ("coco", "coco_full", "labelme")


def start(args: argparse.Namespace, output: Path) -> subprocess.Popen:
    """Starts a run in a process group of its own."""
    words = [args.run, "--input", *args.input, "--output", str(output), "--score-threshold", "0.05"]
    words += ["--num-gpus", str(args.num_gpus), "--batch-size", str(args.batch_size), "--format", *FORMATS]
    command = [sys.executable, "-W", "ignore", "-m", "densekit", "predict", *words]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, start_new_session=True, **quiet)


def finished(output: Path) -> int:
    """Counts the pictures with a whole line, doubles not counted."""
    files = [output / "predictions.jsonl", *(output / "parts").glob("*.jsonl")]
    lines = {line for file in files if file.exists() for line in file.read_bytes().split(b"\n")[:-1]}
    return len({line.split(b",", 1)[0] for line in lines})


def is_writing(output: Path, old: float) -> bool:
    """Tells whether the journal has been joined since a time; formats are written after that."""
    joined = output / "predictions.jsonl"
    return joined.exists() and joined.stat().st_mtime > old


def run_and_kill(args: argparse.Namespace, output: Path, moment: Callable[[], bool], delay: float, group: bool) -> str:
    """Starts a run, kills it a while after a moment has come, and says whom it hit."""
    process = start(args, output)
    while process.poll() is None and not moment():
        time.sleep(0.005)
    time.sleep(delay)
    if process.poll() is not None:
        return "none, it was done"
    if group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    return "all processes" if group else "the first process"


def differing(one: Path, two: Path) -> list[str]:
    """Files that only one folder has, or that differ in a byte."""
    names = {path.relative_to(root) for root in (one, two) for path in root.rglob("*") if path.is_file()}
    both = {name for name in names if (one / name).is_file() and (two / name).is_file()}
    return sorted(
        str(name) for name in names if name not in both or (one / name).read_bytes() != (two / name).read_bytes()
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a training run's folder")
    parser.add_argument("--input", nargs="+", required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--num-gpus", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--seed", type=int, help="of the moments; another one each time by default")
    args = parser.parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        began = time.perf_counter()
        if start(args, whole).wait():
            raise SystemExit("The uninterrupted run has failed; run densekit predict to see why.")
        duration, total = time.perf_counter() - began, finished(whole)
        rows = []
        for number in range(args.kills):
            before, old, left = finished(killed), time.time(), max(args.kills - 2 - number, 0)
            target = before + moments.randint(0, max(2 * (total - before) // (left + 1), 1))
            writing = not left
            moment = partial(is_writing, killed, old) if writing else lambda: finished(killed) >= target  # noqa: B023
            delay = moments.uniform(0, 0.3)
            victim = run_and_kill(args, killed, moment, delay, group=bool(number % 2))
            stage = "writing" if writing else f"{target} pictures"
            rows.append([number + 1, f"{stage} + {delay:.2f} s", victim, before, finished(killed)])
        code = start(args, killed).wait()
        print(tabulate(rows, ["kill", "moment", "victim", "finished before", "finished after"]))
        different = differing(whole, killed)
        print(f"Uninterrupted: {duration:.1f} s, {total} pictures. Last rerun: exit code {code}.")
        print(f"Files that differ: {', '.join(different) or 'none'}")
    return int(bool(different or code))


if __name__ == "__main__":
    sys.exit(main())
