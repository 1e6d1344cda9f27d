"""The folder of checkpoints: damage is found, an older file is taken, old files go, the one to resume never does."""

import logging
import random
import subprocess
import zipfile

import pytest
import torch
from torch import nn

from densekit.checkpoint import Checkpointer
from densekit.checkpoint.folder import CheckpointFolder


class Steps:
    """Something with a state, as an optimizer is."""

    def __init__(self) -> None:
        self.done = 0

    def state_dict(self) -> dict:
        return {"done": self.done}

    def load_state_dict(self, state: dict) -> None:
        self.done = state["done"]


@pytest.fixture
def run(tmp_path):
    """Three checkpoints, each with other weights: after 10, 20 and 30 steps."""
    model, steps = nn.Linear(20, 30), Steps()
    saver = Checkpointer(model, str(tmp_path), steps=steps)
    for done in (10, 20, 30):
        steps.done = done
        nn.init.constant_(model.weight, done)
        saver.save(f"model_{done - 1:07d}", iteration=done - 1)
    return tmp_path


def resumed(folder) -> tuple[int, float]:
    model, steps = nn.Linear(20, 30), Steps()
    Checkpointer(model, str(folder), steps=steps).resume_or_load("", resume=True)
    return steps.done, model.weight.mean().item()


def test_the_sums_are_those_of_sha256sum(run):
    assert len(CheckpointFolder(run).sums()) == 3
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=run).returncode == 0
    assert resumed(run) == (30, 30.0)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(run, caplog, damage):
    file = run / "model_0000029.pth"
    content = bytearray(file.read_bytes())
    generator = random.Random(0)
    for _ in range(10):
        at = generator.randrange(len(content))
        if damage == "truncated":
            file.write_bytes(content[:at])
        elif damage == "emptied":
            file.write_bytes(b"")
        else:
            broken = bytearray(content)
            broken[at] ^= 1 << generator.randrange(8)
            file.write_bytes(broken)
        with caplog.at_level(logging.WARNING):
            assert resumed(run) == (20, 20.0)
        assert str(file) in caplog.text and "an older one is taken" in caplog.text
    file.write_bytes(content)
    assert resumed(run) == (30, 30.0)


def test_a_pointer_that_is_lost_or_names_nothing_loses_nothing(run):
    (run / "last_checkpoint").write_text("model_0000099.pth")
    assert resumed(run) == (30, 30.0)
    (run / "last_checkpoint").unlink()
    assert resumed(run) == (30, 30.0)
    (run / "SHA256SUMS").unlink()
    assert resumed(run) == (30, 30.0)


def test_a_damaged_file_without_a_sum_is_found_by_reading_it(run):
    (run / "SHA256SUMS").unlink()
    file = run / "model_0000029.pth"
    file.write_bytes(file.read_bytes()[:500])
    assert resumed(run) == (20, 20.0)


def test_a_flipped_bit_in_a_file_without_a_sum_is_found(run):
    (run / "SHA256SUMS").unlink()
    file = run / "model_0000029.pth"
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        entry = next(one for one in archive.infolist() if "/data/" in one.filename)
    content[entry.header_offset + 200] ^= 4  # in the numbers of a weight, which torch reads without a complaint
    file.write_bytes(content)
    assert resumed(run) == (20, 20.0)


def test_what_last_checkpoint_names_has_a_sum(run, monkeypatch):
    """Whenever the process is killed."""

    def killed(self, name):
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointFolder, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        Checkpointer(nn.Linear(20, 30), str(run)).save("model_0000039", iteration=39)
    assert (run / "last_checkpoint").read_text() in CheckpointFolder(run).sums()


def test_nothing_whole_is_an_error_that_names_the_files(run):
    for file in run.glob("*.pth"):
        file.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"(?s)can be resumed.*model_0000029\.pth.*model_0000009\.pth"):
        resumed(run)


def test_old_checkpoints_go_and_the_one_to_resume_stays(run):
    torch.save({}, run / "model_final.pth")
    folder = CheckpointFolder(run)
    (run / "last_checkpoint").write_text("model_0000009.pth")  # resumed from an older one on purpose
    folder.prune(1)
    assert sorted(file.name for file in run.glob("*.pth")) == ["model_0000009.pth", "model_final.pth"]
    assert list(folder.sums()) == ["model_0000009.pth"]


def test_a_replaced_file_is_never_listed_with_the_old_content(run, monkeypatch):
    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    model = nn.Linear(20, 30)
    with pytest.raises(OSError, match="disk full"):
        Checkpointer(model, str(run), steps=Steps()).save("model_0000029")
    assert "model_0000029.pth" not in CheckpointFolder(run).sums()
    assert resumed(run) == (30, 30.0)


def test_a_file_that_one_machine_lacks_is_an_error_in_all_processes(run, monkeypatch):
    file = str(run / "model_0000029.pth")
    for others in ([True, False], [False, True]):
        monkeypatch.setattr("densekit.d2.utils.comm.all_gather", lambda mine, others=others: others)
        with pytest.raises(FileNotFoundError, match=rf"does not exist for the processes {others.index(False)}:"):
            Checkpointer(nn.Linear(20, 30)).load(file)
