"""What goes wrong around a run: it says so in one line, and goes on exactly from its last checkpoint."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from densekit.checkpoint.folder import CheckpointFolder
from densekit.engine import DataError, Trainer, setup
from densekit.engine.errors import DiskError


def train(arguments, folder: Path, *opts: object, resume: bool = False) -> None:
    trainer = Trainer(setup(arguments(*opts, "OUTPUT_DIR", folder, resume=resume)))
    trainer.resume_or_load(resume=resume)
    trainer.train()


def final_weights(folder: Path) -> dict:
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def test_a_loader_process_that_dies(arguments, tmp_path, monkeypatch):
    # Long enough for the death to be noticed: up to four batches are ready before it.
    opts = ("SOLVER.MAX_ITER", 12, "SOLVER.CHECKPOINT_PERIOD", 2, "DATALOADER.NUM_WORKERS", 2, "DATASETS.TEST", "()")
    train(arguments, tmp_path / "whole", *opts)
    ordinary = Trainer.run_step
    ended = set(torch.multiprocessing.active_children())  # those of the whole run may still be on their way out

    def without_worker(self):
        ordinary(self)
        if self.iter == 2:
            worker = (set(torch.multiprocessing.active_children()) - ended).pop()
            os.kill(worker.pid, signal.SIGKILL)

    with monkeypatch.context() as patched, pytest.raises(DataError, match=r"NUM_WORKERS.*--resume") as error:
        patched.setattr(Trainer, "run_step", without_worker)
        train(arguments, tmp_path / "cut", *opts)
    assert "\n" not in str(error.value) and "has died" in str(error.value)
    train(arguments, tmp_path / "cut", *opts, resume=True)
    one, other = (final_weights(tmp_path / name) for name in ("whole", "cut"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


KEPT = """
from torch.utils.data import DataLoader
from densekit.data.loader import prepare_worker, start_workers
loader = DataLoader(list(range(1000)), num_workers=2, worker_init_fn=prepare_worker)
kept = start_workers(loader)
next(kept)
cycle = [kept]
cycle.append(cycle)
raise SystemExit(7)
"""


def test_a_run_that_ends_with_an_error_does_not_wait_for_its_loaders():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    assert subprocess.run([sys.executable, "-c", KEPT], env=environment, timeout=100).returncode == 7


def test_an_image_that_disappears(arguments, tiny_root, tmp_path, monkeypatch):
    opts = ("SOLVER.MAX_ITER", 8, "SOLVER.CHECKPOINT_PERIOD", 1, "DATASETS.TEST", "()")
    train(arguments, tmp_path / "whole", *opts)
    picture = tiny_root / "coco" / "train2017" / "000000000003.jpg"
    content = picture.read_bytes()
    ordinary = Trainer.run_step

    def without_picture(self):
        if self.iter == 2:
            picture.unlink()
        ordinary(self)

    try:
        with (
            monkeypatch.context() as patched,
            pytest.raises(DataError, match=r"000000000003\.jpg.*does not exist") as error,
        ):
            patched.setattr(Trainer, "run_step", without_picture)
            train(arguments, tmp_path / "cut", *opts)
    finally:
        picture.write_bytes(content)
    assert "\n" not in str(error.value)
    train(arguments, tmp_path / "cut", *opts, resume=True)
    one, other = (final_weights(tmp_path / name) for name in ("whole", "cut"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_is_full_when_a_checkpoint_is_written(arguments, tmp_path, monkeypatch, number):
    opts = ("SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2, "DATASETS.TEST", "()")
    train(arguments, tmp_path / "whole", *opts)
    ordinary, saves = torch.save, []

    class Full:
        """A file on a disk with little room left."""

        def __init__(self, file) -> None:
            self.file, self.left = file, 100_000

        def write(self, content) -> int:
            self.left -= len(content)
            if self.left < 0:
                raise OSError(number, os.strerror(number))
            return self.file.write(content)

        def flush(self) -> None:
            self.file.flush()

    def save(content, file, **options):
        saves.append(file)
        ordinary(content, Full(file) if len(saves) == 2 else file, **options)

    with (
        monkeypatch.context() as patched,
        pytest.raises(DiskError, match=r"model_0000001\.pth is whole.*--resume") as error,
    ):
        patched.setattr(torch, "save", save)
        train(arguments, tmp_path / "cut", *opts)
    assert os.strerror(number) in str(error.value) and "\n" not in str(error.value)
    folder = CheckpointFolder(tmp_path / "cut")
    assert [file.name for file in folder.newest_first()] == ["model_0000001.pth"]
    assert folder.problem(folder.newest_first()[0]) is None
    assert not list((tmp_path / "cut").glob(".*.part"))
    train(arguments, tmp_path / "cut", *opts, resume=True)
    one, other = (final_weights(tmp_path / name) for name in ("whole", "cut"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_another_number_of_processes_goes_on_with_the_next_images(arguments, tmp_path, caplog):
    """As tests/data/test_order.py shows, processes share the batches of one; here one takes over from two."""
    opts = ("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "DATASETS.TEST", "()")
    ordinary, seen = Trainer.run_step, []

    def noting(self):
        ordinary(self)
        seen.append((self.iter, tuple(self._batches.last_files)))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "run_step", noting)
        train(arguments, tmp_path / "out", *opts)
        whole = list(seen)
        seen.clear()
        state = torch.load(tmp_path / "out" / "model_0000001.pth", weights_only=True)
        state["random_states"] *= 2  # as two processes leave it
        folder = tmp_path / "less"
        folder.mkdir()
        torch.save(state, folder / "model_0000001.pth")
        train(arguments, folder, *opts, resume=True)
    assert seen == whole[2:]
    assert "random states of 2 processes, and this run has 1" in caplog.text
