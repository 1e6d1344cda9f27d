"""One run at a time in a folder, and one run in a metrics.json."""

import contextlib
import json
import logging
import os
import signal
import time
from pathlib import Path

import pytest

from densekit.d2.utils.events import EventStorage
from densekit.engine import Trainer, run, setup
from densekit.engine import run_folder as module
from densekit.engine.run_folder import RunFolder, claim, read_lines, release
from densekit.engine.writers import MetricsWriter
from densekit.report.run_files import read_run


def metrics(folder: Path, name: str = "metrics.json") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def train(arguments, *opts: object, resume: bool = False) -> Trainer:
    trainer = Trainer(setup(arguments("DATASETS.TEST", "()", *opts, resume=resume)))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


@pytest.fixture(autouse=True)
def released():
    yield
    release()


@pytest.fixture
def holder():
    """Starts another process in a folder, which has one of its own, as loaders are; returns its number."""
    started = []

    def start(folder: Path) -> int:
        ready, says_ready = os.pipe()
        process = os.fork()
        if process == 0:
            claim(folder)
            loader = os.fork()
            if loader:
                os.write(says_ready, str(loader).encode())
            time.sleep(60)
            os._exit(0)
        started.extend([process, int(os.read(ready, 20))])
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


# The lock


@pytest.mark.skipif(module.fcntl is None, reason="Windows has no such locks")
def test_a_second_run_is_refused_until_the_first_is_gone(arguments, tmp_path, holder, capsys):
    out = tmp_path / "out"
    out.mkdir()
    process = holder(out)
    with pytest.raises(SystemExit) as stop:
        run(arguments("SOLVER.MAX_ITER", 1))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"process {process} on " in error and "in use by another run" in error and "runs/other" in error
    assert sorted(path.name for path in out.iterdir()) == [".lock"]  # nothing of the first run is touched
    os.kill(process, signal.SIGKILL)  # its own child lives on
    os.waitpid(process, 0)
    claim(out)
    claim(out)
    assert f"process {os.getpid()} on " in (out / ".lock").read_text()


@pytest.mark.skipif(module.fcntl is None, reason="Windows has no such locks")
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def fail(*args: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module.fcntl, "lockf", fail)
    with caplog.at_level(logging.WARNING):
        claim(tmp_path)
    assert "has no locks (Operation not supported)" in caplog.text


# metrics.json


def test_another_run_in_the_folder_keeps_its_own_lines(arguments, tmp_path):
    out = tmp_path / "out"
    train(arguments, "SOLVER.MAX_ITER", 3)
    first = metrics(out)
    assert len({line["run_id"] for line in first}) == 1
    one = first[0]["run_id"]
    train(arguments, "SOLVER.MAX_ITER", 2)
    second = metrics(out)
    other = second[0]["run_id"]
    assert other != one and json.loads((out / "run.json").read_text())["run_id"] == other
    assert metrics(out, f"metrics_{one[:12]}.json") == first
    assert f"it is metrics_{one[:12]}.json now" in (out / "log.txt").read_text()


def test_resuming_an_earlier_run_brings_its_lines_back(tmp_path, caplog):
    folder = RunFolder(tmp_path)
    folder.begin()
    one = folder.id
    write(tmp_path, one, range(4))
    folder.begin()
    other = folder.id
    write(tmp_path, other, range(2))
    assert other != one
    folder.go_on(one, 3, evaluated=False)
    assert f"of an earlier run, {one[:12]}" in caplog.text and other[:12] in caplog.text
    assert [(line["iteration"], line["run_id"]) for line in metrics(tmp_path)] == [(k, one) for k in range(3)]
    assert [line["run_id"] for line in metrics(tmp_path, f"metrics_{other[:12]}.json")] == [other, other]
    assert folder.facts["run_id"] == one


def write(folder: Path, run_id: str, iterations: range) -> None:
    writer = MetricsWriter(folder / "metrics.json", run_id)
    with EventStorage() as storage:
        for storage.iter in iterations:
            storage.put_scalar("total_loss", 1.0)
            writer.write()
    writer.close()


def test_no_iteration_stands_twice_after_a_kill(arguments, tmp_path, monkeypatch):
    out = tmp_path / "out"
    opts = ("SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2)
    ordinary = Trainer.run_step

    def killed(self):
        if self.iter == 5:
            raise RuntimeError("killed")
        ordinary(self)
        self.write_metrics()

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="killed"):
        patched.setattr(Trainer, "run_step", killed)
        train(arguments, *opts)
    with (out / "metrics.json").open("a") as file:
        file.write('{"iteration": 6, "total_')
    before = read_lines(out / "metrics.json")
    assert [line["iteration"] for line in before] == [0, 1, 2, 3, 4, 5]
    train(arguments, *opts, resume=True)
    after = metrics(out)
    assert [line["iteration"] for line in after] == [0, 1, 2, 3, 5]  # the next regular line is that at the end
    assert after[:4] == before[:4] and len({line["run_id"] for line in after}) == 1
    assert "2 lines of metrics.json from iteration 4 on are dropped" in (out / "log.txt").read_text()


def test_the_evaluation_at_the_end_stays_when_the_training_goes_on(arguments, tmp_path):
    out = tmp_path / "out"
    for length in (2, 2, 3):
        run(arguments("SOLVER.MAX_ITER", length, resume=True))
    found = [(line["iteration"], "bbox/AP" in line, "total_loss" in line) for line in metrics(out)]
    assert found == [(1, False, True), (2, True, True), (3, True, False)]


def test_checkpoints_of_before_have_no_run_id(tmp_path):
    (tmp_path / "metrics.json").write_text('{"iteration": 0, "total_loss": 1.0}\n{"iteration": 1, "lr": NaN}\n')
    folder = RunFolder(tmp_path)
    folder.go_on(None, 2, evaluated=False)
    assert metrics(tmp_path) == [{"iteration": 0, "total_loss": 1.0}, {"iteration": 1, "lr": None}]
    assert len(folder.id) == 32
    (tmp_path / "run.json").write_text("damaged")
    assert RunFolder(tmp_path).facts == {}
    folder.begin()
    assert not (tmp_path / "metrics.json").exists() and len(list(tmp_path.glob("metrics_*.json"))) == 1


def test_the_report_reads_lines_with_an_id(tmp_path):
    write(tmp_path, "abc", range(3))
    (tmp_path / "inference" / "tiny").mkdir(parents=True)
    assert [line["iteration"] for line in read_run(tmp_path, None).curves] == [0, 1, 2]


def test_values_of_the_last_line_join_it(tmp_path):
    write(tmp_path, "abc", range(2))
    writer = MetricsWriter(tmp_path / "metrics.json", "abc")
    with EventStorage(1) as storage:
        storage.put_scalar("bbox/AP", float("nan"), smoothing_hint=False)
        writer.write()
        storage.put_scalar("eta_seconds", 3.0, smoothing_hint=False)
        writer.write()
        writer.write()
        storage.iter = 2
        storage.put_scalar("total_loss", 2.0)
        writer.write()
    writer.close()
    assert metrics(tmp_path) == [
        {"iteration": 0, "run_id": "abc", "total_loss": 1.0},
        {"iteration": 1, "run_id": "abc", "total_loss": 1.0, "bbox/AP": None, "eta_seconds": 3.0},
        {"iteration": 2, "run_id": "abc", "total_loss": 2.0},
    ]
