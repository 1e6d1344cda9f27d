"""``--dry-run``: what it says is what a run does, and it leaves nothing behind."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from densekit.checkpoint import Checkpointer
from densekit.d2.modeling import GeneralizedRCNN
from densekit.engine import Trainer, run
from densekit.engine.disk import checkpoint_size, planned_checkpoints
from densekit.engine.dry_run import count_parameters, dry_run, rehearse
from densekit.engine.setup import read_config


def files_below(*folders: Path) -> set[str]:
    return {str(path) for folder in folders for path in folder.rglob("*")}


def test_it_prints_what_a_run_needs_and_writes_nothing(arguments, tmp_path, tiny_root, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = files_below(tiny_root, tmp_path)
    text = rehearse(arguments(dry_run=True))
    assert files_below(tiny_root, tmp_path) == before
    assert not (tmp_path / "out").exists()
    assert re.search(r"backbone +\d\.\d\d M +\d\.\d\d M", text)
    assert "a step takes 2 images, here up to 64 x 80" in text
    assert "4 of them (SOLVER.MAX_ITER) take about" in text
    assert re.search(r"FLOPs +[\d.]+ G forward for each image, [\d.]+ G for the step", text)
    assert re.search(r"checkpoints +\S+ .iB each, 2 of them", text)
    assert text.splitlines()[-1] == "nothing was written"


def test_its_step_is_the_first_of_the_run(arguments, tmp_path):
    _, needs = dry_run(arguments(dry_run=True))
    run(arguments("SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()"))
    line = json.loads((tmp_path / "out" / "metrics.json").read_text().splitlines()[0])
    assert needs.losses and all(line[name] == pytest.approx(value, rel=1e-5) for name, value in needs.losses.items())
    # The gradients of weights and those of maps are as much work as the forward pass each.
    assert 2 < needs.step_flops / (2 * needs.forward_flops) < 3.2
    assert needs.gradients == needs.weights - buffers_of(arguments)
    assert needs.step_time > 0 and needs.data_time > 0


def buffers_of(arguments) -> int:
    cfg, _ = read_config(arguments())
    return sum(b.untyped_storage().nbytes() for b in Trainer.build_model(cfg).buffers())


def test_epochs_are_those_of_the_whole_batch(arguments):
    text = rehearse(arguments("--num-gpus", 2, "SOLVER.MAX_EPOCHS", 5.0, dry_run=True))
    assert "15 of them (SOLVER.MAX_ITER) take about" in text  # 6 images, 2 in a step


def test_a_step_that_is_not_finite_leaves_nothing_behind(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def infinite(self, batch):
        return {"loss": self.backbone.bottom_up.stem.conv1.weight.sum() / 0}

    monkeypatch.setattr(GeneralizedRCNN, "forward", infinite)
    with pytest.raises(FloatingPointError, match="loss"):
        rehearse(arguments(dry_run=True))
    assert not files_below(tmp_path)


def test_one_process_stands_for_several(arguments):
    text = rehearse(arguments("--num-gpus", 2, "DATALOADER.NUM_WORKERS", 1, dry_run=True))
    assert "a step takes 1 images, its share of 2 for 2 processes" in text
    with pytest.raises(ValueError, match="IMS_PER_BATCH 2 cannot be shared by 3 processes"):
        rehearse(arguments("--num-gpus", 3, dry_run=True))


@pytest.mark.parametrize(("name", "value"), [("MODEL.WEIGHTS", "nowhere.pth"), ("DATASETS.TRAIN", "('tiny_trian',)")])
def test_what_would_end_a_run_ends_its_rehearsal(arguments, name, value):
    with pytest.raises((ValueError, KeyError, OSError), match=r"nowhere\.pth|tiny_train"):
        rehearse(arguments(name, value, dry_run=True))


def test_the_hosts_scaling_to_the_processes_is_that_of_the_run(arguments):
    text = rehearse(arguments("--num-gpus", 2, "SOLVER.REFERENCE_WORLD_SIZE", 1, dry_run=True))
    assert "a step takes 2 images, its share of 4 for 2 processes" in text
    assert "2 of them (SOLVER.MAX_ITER) take about" in text


def test_weights_that_are_far_away_stay_there(arguments, caplog):
    rehearse(arguments("MODEL.WEIGHTS", "https://127.0.0.1:9/a.pth", dry_run=True))
    assert "https://127.0.0.1:9/a.pth is not downloaded" in caplog.text


def test_boxes_that_no_anchor_covers_are_counted(arguments):
    fitting = rehearse(arguments(dry_run=True))
    assert re.search(r"anchors +0 of 6 boxes overlap no anchor by 0\.3\n", fitting)
    far = "[[200], [210], [220], [230], [240]]"  # the boxes are 30 x 24
    text = rehearse(arguments("MODEL.ANCHOR_GENERATOR.SIZES", far, dry_run=True))
    assert re.search(r"anchors +6 of 6 boxes .* sides of 27 to 27 .* MODEL\.ANCHOR_GENERATOR\.SIZES", text)


def test_too_little_memory_is_said_with_the_remedy(arguments, monkeypatch):
    def fail(self):
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    monkeypatch.setattr(Trainer, "run_step", fail)
    with pytest.raises(ValueError, match=r"does not fit.*9 GiB.*Lower SOLVER\.IMS_PER_BATCH"):
        rehearse(arguments(dry_run=True))


def test_shared_and_frozen_parameters_are_counted_once_and_apart():
    net = nn.ModuleDict({"a": nn.Linear(3, 2, bias=False), "b": nn.Linear(3, 2, bias=False), "c": nn.Linear(2, 2)})
    net["b"].weight = net["a"].weight
    net["c"].bias.requires_grad = False
    assert count_parameters(net) == {"a": (6, 6), "c": (6, 4)}


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.AdamW(p, lr=0.1),
    ],
    ids=["sgd", "momentum", "adamw"],
)
def test_a_checkpoint_has_the_size_that_was_foretold(arguments, tmp_path, make):
    model = nn.Sequential(nn.Linear(1000, 1000), nn.BatchNorm1d(1000))
    optimizer = make(model.parameters())
    cfg, _ = read_config(arguments())
    before = checkpoint_size(cfg, model, optimizer)
    model(torch.rand(4, 1000)).sum().backward()
    optimizer.step()
    assert abs(checkpoint_size(cfg, model, optimizer) - before) < 100
    Checkpointer(model, str(tmp_path), optimizer=optimizer).save("a")
    assert 0 < before - (tmp_path / "a.pth").stat().st_size < 1.1 * 2**20


@pytest.mark.parametrize(
    ("opts", "count"),
    [
        ([], 2),  # after 2 of 4 iterations, and the last
        (["SOLVER.CHECKPOINT_PERIOD", 1], 4),
        (["SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINT_KEEP", 1], 2),
        # One more for the best, and its weights alone.
        (["SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINT_KEEP", 1, "TEST.BEST_METRIC", "bbox/AP"], 4),
        (["SOLVER.CHECKPOINT_PERIOD", 3, "TEST.EVAL_PERIOD", 2], 3),
        (["SOLVER.CHECKPOINT_PERIOD", 9], 1),
    ],
)
def test_planned_checkpoints_are_those_that_a_run_leaves(arguments, tmp_path, opts, count):
    cfg, _ = read_config(arguments(*opts))
    assert planned_checkpoints(cfg) == count
    if len(opts) == 4:
        run(arguments(*opts))
        assert len(list((tmp_path / "out").glob("*.pth"))) == count
