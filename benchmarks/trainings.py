"""Trainings as processes of their own, for benchmarks about learning: finished ones stay, interrupted ones go on."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from densekit.files.atomic import atomic_write

ROOT = Path(__file__).resolve().parents[1]


def train(config: str, folder: Path, words: Sequence[str] = (), *, evaluated: bool = True) -> None:
    """Trains and evaluates a configuration once on one thread, unless that has been done.

    Args:
        config: for ``--config-file``.
        folder: of the run.
        words: further ones of the command line.
        evaluated: the run ends with results; else with its last weights.

    Raises:
        SystemExit: the run has failed; the message names the file with all that it said.
    """
    if (results_file(folder) if evaluated else folder / "model_final.pth").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "train_net.py", "--config-file", config, "--resume", *words]
    command += ["OUTPUT_DIR", str(folder.resolve())]
    with (folder / "console.txt").open("a") as console:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=console, stderr=console
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    total = _seconds(folder) + usage.ru_utime + usage.ru_stime
    with atomic_write(_seconds_file(folder)) as file:
        file.write(f"{total:.1f}\n")
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with code {process.returncode}; see {folder / 'console.txt'}")


def results_file(folder: Path) -> Path:
    return folder / "inference" / "results.json"


def results(folder: Path) -> dict[str, dict[str, float]]:
    """Results of a finished run on its first test set: task -> metric -> value."""
    return next(iter(json.loads(results_file(folder).read_text()).values()))


def minutes(folder: Path) -> float:
    """Minutes of processor time of a run with its evaluations, added up over interruptions."""
    return _seconds(folder) / 60


def _seconds_file(folder: Path) -> Path:
    return folder / "seconds.txt"


def _seconds(folder: Path) -> float:
    return float(_seconds_file(folder).read_text()) if _seconds_file(folder).is_file() else 0.0
