"""Disks that are full: said before the training where that can be known, and without loss where it cannot."""

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from densekit.checkpoint import Checkpointer
from densekit.checkpoint.folder import CheckpointFolder
from densekit.engine import run
from densekit.engine.disk import check_space, checkpoint_size, free_space
from densekit.engine.setup import read_config
from densekit.files import atomic as files
from densekit.files.atomic import atomic_write

Usage = namedtuple("Usage", "total used free")
ROOT = Path(__file__).resolve().parents[2]


def pretend(monkeypatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**12, 0, free))


def test_too_little_room_ends_a_run_before_it_begins(arguments, tmp_path, monkeypatch, capsys):
    pretend(monkeypatch, 10_000)
    with pytest.raises(SystemExit) as stop:
        run(arguments())
    error = capsys.readouterr().err
    assert stop.value.code == 2 and str(tmp_path / "out") in error
    assert "9.77 KiB free, and a checkpoint takes about" in error
    assert not list((tmp_path / "out").glob("*.pth"))


def test_room_for_some_checkpoints_is_a_warning_with_the_numbers(arguments, monkeypatch, caplog):
    cfg, _ = read_config(arguments("SOLVER.CHECKPOINT_PERIOD", 1))
    size = 100 * 2**20
    for free, warns in ((250 * 2**20, True), (400 * 2**20, False)):
        pretend(monkeypatch, free)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            check_space(cfg, size)
        assert bool(caplog.text) == warns
        if warns:
            assert "250 MiB free, and the run will write 4 checkpoints of about 100 MiB each, 400 MiB" in caplog.text
            assert "SOLVER.CHECKPOINT_KEEP 2" in caplog.text
    pretend(monkeypatch, 250 * 2**20)
    caplog.clear()
    check_space(cfg, size, done=2)  # of a resumed run, one more and the last are left
    assert not caplog.text


def test_room_is_that_of_the_disk_that_the_folder_will_be_on(tmp_path):
    assert free_space(str(tmp_path / "not" / "there" / "yet")) > 0


def test_the_average_of_the_weights_counts(arguments):
    model = nn.Linear(100, 100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plain, averaged = (
        checkpoint_size(read_config(arguments("MODEL_EMA.ENABLED", on))[0], model, optimizer) for on in (False, True)
    )
    assert averaged - plain == 4 * 10_100


# Full in mid-run


class Full:
    """A file on a disk with room for so many bytes."""

    def __init__(self, file, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data) -> int:
        self._room -= len(memoryview(data).cast("B"))
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)


def fill(monkeypatch, room: int) -> None:
    """From here on every file that is written atomically has this room."""
    before = files.os.fdopen

    def fdopen(*args, **kwargs):
        @contextmanager
        def opened():
            with before(*args, **kwargs) as file:
                yield Full(file, room)

        return opened()

    monkeypatch.setattr(files.os, "fdopen", fdopen)


@pytest.mark.parametrize("room", [0, 5, 500])
def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_part(tmp_path, monkeypatch, room):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    fill(monkeypatch, room)
    with pytest.raises(OSError, match="No space left"), atomic_write(path, "wb") as file:
        file.write(bytes(300))
        file.write(bytes(300))
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("room", [0, 100, 3000])
def test_a_checkpoint_without_room_leaves_the_one_before_whole(tmp_path, monkeypatch, room):
    model = nn.Linear(40, 40)
    saver = Checkpointer(model, str(tmp_path))
    saver.save("model_0000001", iteration=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    nn.init.zeros_(model.weight)
    with monkeypatch.context() as patch:
        fill(patch, room)
        with pytest.raises((OSError, RuntimeError)):  # torch's writer of zip files has an error of its own
            saver.save("model_0000003", iteration=3)
    assert sorted(os.listdir(tmp_path)) == ["SHA256SUMS", "last_checkpoint", "model_0000001.pth"]
    assert CheckpointFolder(tmp_path).problem(tmp_path / "model_0000001.pth") is None
    assert Checkpointer(model, str(tmp_path)).resume_or_load("", resume=True)["iteration"] == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_limit_of_the_system_on_files_is_explained_too(tmp_path):
    """Nothing is replaced here: the kernel refuses to let the file grow."""
    code = (
        "import resource, signal, torch\n"
        "from densekit.checkpoint import Checkpointer\n"
        "from densekit.engine.disk import full_disk_explained\n"
        f"saver = Checkpointer(torch.nn.Linear(300, 300), {str(tmp_path)!r})\n"
        "saver.save('model_0000001')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        f"with full_disk_explained({str(tmp_path)!r}):\n"
        "    saver.save('model_0000002')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "DiskError" in done.stderr
    assert "cannot be written: File too large. Free some space. model_0000001.pth is whole" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["SHA256SUMS", "last_checkpoint", "model_0000001.pth"]


def test_a_run_that_fills_the_disk_ends_with_the_message_and_goes_on_later(arguments, tmp_path, monkeypatch, capsys):
    opts = ("DATASETS.TEST", "()", "SOLVER.CHECKPOINT_PERIOD", 1)
    original = torch.save

    def full_after_two(data, file):
        if data.get("iteration", 0) >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(data, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_after_two)
        with pytest.raises(SystemExit) as stop:
            run(arguments(*opts))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "cannot be written: No space left on device" in error
    assert "model_0000001.pth is whole" in error
    run(arguments(*opts, resume=True))
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_final.pth"
    assert not list((tmp_path / "out").glob(".*.part"))


def test_a_folder_that_cannot_be_written_ends_a_run_before_it_begins(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(arguments("OUTPUT_DIR", "/proc/densekit"))
    assert stop.value.code == 2 and "OUTPUT_DIR '/proc/densekit' cannot be written" in capsys.readouterr().err
