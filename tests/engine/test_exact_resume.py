"""A run that was stopped and resumed ends in the very weights of one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from densekit.d2 import HOST
from densekit.engine import Trainer, setup

ROOT = Path(__file__).resolve().parents[2]


class Stopped(RuntimeError):
    pass


def final(folder: Path) -> dict:
    return torch.load(folder / "model_final.pth", weights_only=True)


def assert_equal_states(one: dict, other: dict) -> None:
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    first, second = (run["trainer"]["_trainer"]["optimizer"]["state"] for run in (one, other))
    for key, slots in first.items():
        assert all(torch.equal(value, second[key][name]) for name, value in slots.items() if torch.is_tensor(value))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seed", [3, -1])
def test_resume_is_exact(arguments, tmp_path, monkeypatch, workers, seed):
    opts = [
        "SOLVER.MAX_ITER",
        6,
        "SOLVER.CHECKPOINT_PERIOD",
        2,
        "TEST.EVAL_PERIOD",
        2,
        "DATALOADER.NUM_WORKERS",
        workers,
    ]
    opts += ["SEED", seed, "SOLVER.OPTIMIZER", "AdamW", "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"]
    opts += ["MODEL_EMA.ENABLED", True, "MODEL_EMA.DECAY", 0.5]
    if workers == 0:  # with several it takes long
        opts += ["TEST.VALIDATION_LOSS", True, "TEST.BEST_METRIC", "validation_loss"]
    trainer = Trainer(setup(arguments(*opts)))
    trainer.resume_or_load(resume=False)
    ordinary = Trainer.run_step

    def stop_at_five(self):
        if self.iter == 5 and self.start_iter == 0 and stopping:
            raise Stopped
        ordinary(self)

    monkeypatch.setattr(Trainer, "run_step", stop_at_five)
    stopping = True
    with pytest.raises(Stopped):
        trainer.train()
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_0000003.pth"

    # The same run without the stop: from its first checkpoint on, as SEED -1 has no way to start it anew.
    second = tmp_path / "second"
    second.mkdir()
    (second / "model_0000001.pth").write_bytes((tmp_path / "out" / "model_0000001.pth").read_bytes())
    (second / "last_checkpoint").write_text("model_0000001.pth")
    ends, bests = [], []
    for folder in (tmp_path / "out", second):
        trainer = Trainer(setup(arguments(*opts, "OUTPUT_DIR", folder, resume=True)))
        trainer.resume_or_load(resume=True)
        trainer.train()
        ends.append(final(folder))
        bests += [torch.load(path, weights_only=True) for path in folder.glob("model_best.pth")]
    assert_equal_states(*ends)
    for name, value in ends[0]["ema"]["tensors"].items():
        assert torch.equal(value, ends[1]["ema"]["tensors"][name]), name
    if workers == 0:
        assert_equal_bests(*bests)


def assert_equal_bests(*bests: dict) -> None:
    assert all(torch.equal(value, bests[1]["model"][name]) for name, value in bests[0]["model"].items())
    assert (bests[0]["iteration"], bests[0]["value"]) == (bests[1]["iteration"], bests[1]["value"])


def test_resume_equals_a_run_that_never_stopped(arguments, tmp_path):
    opts = ["SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "DATASETS.TEST", "()"]
    trainer = Trainer(setup(arguments(*opts)))
    trainer.resume_or_load(resume=False)
    trainer.train()
    whole = final(tmp_path / "out")
    (tmp_path / "out" / "last_checkpoint").write_text("model_0000001.pth")
    trainer = Trainer(setup(arguments(*opts, resume=True)))
    torch.rand(5)  # whatever else has drawn random numbers by now
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 2
    trainer.train()
    assert_equal_states(whole, final(tmp_path / "out"))


def test_a_checkpoint_of_another_program_goes_on_with_later_images(arguments, tmp_path):
    opts = ["SOLVER.MAX_ITER", 2, "DATASETS.TEST", "()"]
    trainer = Trainer(setup(arguments(*opts)))
    trainer.resume_or_load(resume=False)
    trainer.train()
    state = final(tmp_path / "out")
    (tmp_path / "out" / "SHA256SUMS").unlink()
    kept = ("model", "trainer", "iteration")
    torch.save({key: state[key] for key in kept}, tmp_path / "out" / "model_final.pth")
    trainer = Trainer(setup(arguments("SOLVER.MAX_ITER", 3, *opts[2:], resume=True)))
    trainer.resume_or_load(resume=True)
    assert (trainer._order.seed, trainer._order.start) == (3, 2)
    trainer.train()
    assert final(tmp_path / "out")["iteration"] == 2


@pytest.mark.slow
def test_two_killed_processes_resume_exactly(tiny_root, tmp_path):
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(tiny_root / "tiny.yaml"), "--resume"]
    command += ["--num-gpus", "2", "--datasets", str(tiny_root / "own.yaml"), "DATASETS.TEST", "()"]
    command += ["SOLVER.MAX_ITER", "40", "SOLVER.CHECKPOINT_PERIOD", "20", "DATALOADER.NUM_WORKERS", "2"]
    (tiny_root / "own.yaml").write_text(
        "tiny_train: {form: coco, json: coco/annotations/instances_train2017.json, images: coco/train2017}\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DENSEKIT_HOST": HOST}
    for name in ("whole", "killed"):
        run = [*command, "OUTPUT_DIR", str(tmp_path / name)]
        if name == "killed":
            process = subprocess.Popen(run, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
            pointer, deadline = tmp_path / name / "last_checkpoint", time.monotonic() + 120
            while not pointer.is_file() and time.monotonic() < deadline:
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert pointer.read_text() == "model_0000019.pth"
        subprocess.run(run, env=environment, check=True, capture_output=True, timeout=200)
    log = (tmp_path / "killed" / "log.txt").read_text()
    assert "model_0000019.pth: 20 of 40 iterations are done" in log
    assert_equal_states(*(final(tmp_path / name) for name in ("whole", "killed")))
