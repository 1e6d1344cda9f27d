"""A signal ends a run with everything saved, between steps as in an evaluation, in one process as in two."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from densekit.cli.train import resume_command
from densekit.d2 import HOST
from densekit.engine import Trainer, setup
from densekit.engine.preemption import INTERRUPTED, REQUEUE, STOP

ROOT = Path(__file__).resolve().parents[2]


def train(arguments, folder: Path, *opts: object, resume: bool = False) -> Trainer:
    trainer = Trainer(setup(arguments(*opts, "OUTPUT_DIR", folder, resume=resume)))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def weights(folder: Path) -> dict:
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def assert_equal(one: dict, other: dict) -> None:
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_between_checkpoints_loses_no_step(arguments, tmp_path, monkeypatch, name):
    opts = ("SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 100, "DATASETS.TEST", "()")
    train(arguments, tmp_path / "whole", *opts)
    ordinary = Trainer.run_step

    def interrupted(self):
        ordinary(self)
        if self.iter == 2:
            os.kill(os.getpid(), getattr(signal, name))

    with monkeypatch.context() as patched, pytest.raises(SystemExit) as end:
        patched.setattr(Trainer, "run_step", interrupted)
        train(arguments, tmp_path / "cut", *opts)
    assert end.value.code == REQUEUE
    assert (tmp_path / "cut" / "last_checkpoint").read_text() == "model_0000002.pth"
    assert "3 of 6 iterations are saved" in (tmp_path / "cut" / "log.txt").read_text()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert train(arguments, tmp_path / "cut", *opts, resume=True).start_iter == 3
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_ctrl_c_finishes_the_step_and_a_second_one_ends_at_once(arguments, tmp_path, monkeypatch, capfd):
    opts = ("SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 100, "DATASETS.TEST", "()")
    ordinary, begins = Trainer.run_step, []

    def interrupted(self):
        begins.append(self.iter)
        for number in range(presses if self.iter == 2 else 0):
            time.sleep(0.6 * number)  # longer than what torchrun needs to pass its own on
            os.kill(os.getpid(), signal.SIGINT)
        ordinary(self)

    monkeypatch.setattr(Trainer, "run_step", interrupted)
    presses = 1
    with pytest.raises(SystemExit) as end:
        train(arguments, tmp_path / "once", *opts)
    assert end.value.code == INTERRUPTED and begins == [0, 1, 2]
    assert (tmp_path / "once" / "last_checkpoint").read_text() == "model_0000002.pth"
    assert "Press it again to end at once" in capfd.readouterr().err
    presses = 2
    with pytest.raises(KeyboardInterrupt):
        train(arguments, tmp_path / "twice", *opts)
    assert not (tmp_path / "twice" / "last_checkpoint").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_echo_of_a_ctrl_c_is_no_second_one_and_an_ignored_one_stays_ignored():
    with STOP:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert STOP.agreed() == signal.SIGINT
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with STOP:
            os.kill(os.getpid(), signal.SIGINT)
            assert STOP.agreed() == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_command_that_resumes():
    words = ["--config-file", "a b.yaml", "SOLVER.STEPS", "(1, 2)"]
    shown = resume_command("python train_net.py", words)
    assert shown == "python train_net.py --resume=auto --config-file 'a b.yaml' SOLVER.STEPS '(1, 2)'"
    assert resume_command("densekit train", ["--resume", *words]).startswith("densekit train --resume --config-file")


@contextmanager
def job(tiny_root, folder, *words):
    """A training without end in processes of its own, at its 20th step; whatever is left of it is killed afterwards."""
    (tiny_root / "own.yaml").write_text(
        "tiny_train: {form: coco, json: coco/annotations/instances_train2017.json, images: coco/train2017}\n"
    )
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(tiny_root / "tiny.yaml"), *words]
    command += ["--datasets", str(tiny_root / "own.yaml"), "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "100000"]
    command += ["SOLVER.CHECKPOINT_PERIOD", "100000", "OUTPUT_DIR", str(folder), "DATALOADER.NUM_WORKERS", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DENSEKIT_HOST": HOST}
    shown = folder / "console.txt"
    with shown.open("w") as console:
        process = subprocess.Popen(
            command, env=environment, stdout=console, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 400
        while (begins := "iter: 19" in shown.read_text()) is False and time.monotonic() < deadline:
            time.sleep(0.1)
        assert begins, shown.read_text()
        yield process, shown
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_in_a_terminal(tiny_root, tmp_path, processes):
    """The terminal sends the signal to the whole group: launcher, processes of the job and loaders."""
    with job(tiny_root, tmp_path, "--num-gpus", str(processes)) as (process, shown):
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == INTERRUPTED, shown.read_text()
    text = shown.read_text()
    saved = torch.load(tmp_path / (tmp_path / "last_checkpoint").read_text(), weights_only=True)
    assert f"{saved['iteration'] + 1} of 100000 iterations are saved" in text
    assert "To go on from the last checkpoint: python train_net.py --resume=auto" in text
    assert "Traceback" not in text


def test_an_interrupted_evaluation_is_made_up_for(arguments, tmp_path, monkeypatch):
    opts = ("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 100, "TEST.EVAL_PERIOD", 2)
    train(arguments, tmp_path / "whole", *opts)
    ordinary = STOP.leave_if_received

    def interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
        ordinary()

    with monkeypatch.context() as patched, pytest.raises(SystemExit) as end:
        patched.setattr(STOP, "leave_if_received", interrupted)
        train(arguments, tmp_path / "cut", *opts)
    assert end.value.code == REQUEUE
    train(arguments, tmp_path / "cut", *opts, resume=True)
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    for folder in ("whole", "cut"):
        lines = [json.loads(line) for line in (tmp_path / folder / "metrics.json").read_text().splitlines()]
        assert [line["iteration"] for line in lines if "bbox/AP" in line] == [1, 4]


@pytest.mark.slow
def test_one_of_two_processes_is_asked(tiny_root, tmp_path):
    with job(tiny_root, tmp_path, "--resume", "--num-gpus", "2") as (process, shown):
        process.terminate()  # the parent, which passes it on
        assert process.wait(60) == REQUEUE, shown.read_text()
    saved = torch.load(tmp_path / (tmp_path / "last_checkpoint").read_text(), weights_only=True)
    assert len(saved["random_states"]) == 2
    assert f"{saved['iteration'] + 1} of 100000 iterations are saved" in shown.read_text()
