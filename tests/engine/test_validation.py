"""Validation losses: what they are of, and that nothing of the training notices them."""

import json

import pytest
import torch
from torch import nn

from densekit.config_defaults import default_config
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.d2.utils import comm
from densekit.d2.utils.events import EventStorage, get_event_storage
from densekit.data.mapper import DatasetMapper
from densekit.engine import DataError, Trainer, run, setup
from densekit.engine.randomness import random_state
from densekit.engine.validation import config_for_validation, untouched, validation_losses


class Loss(nn.Module):
    """Losses that anyone can compute, with all that a validation could leave traces in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("mean_loss", torch.zeros(()))
        self.normalizer = 100.0
        self.eval()

    def forward(self, batch: list) -> dict:
        assert self.training and not torch.is_grad_enabled()
        (sample,) = batch
        self.norm(torch.randn(4, 1))
        self.normalizer = 0.9 * self.normalizer
        self.mean_loss = self.mean_loss + 1
        self.seen = sample
        get_event_storage().put_scalar("inside", 1.0)
        losses = {"loss_a": torch.tensor(float(sample["value"])), "loss_random": torch.rand(())}
        return losses | ({"loss_rare": torch.tensor(6.0)} if sample["value"] == 3 else {})


@pytest.fixture
def numbered():
    """Two data sets of records with a value each."""
    for name, count in (("numbered_a", 4), ("numbered_b", 2)):
        records = [{"file_name": f"{k}.jpg", "value": k, "instances": ()} for k in range(count)]
        DatasetCatalog.register(name, lambda records=records: records)
    yield
    for name in ("numbered_a", "numbered_b"):
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def losses(*names: str, model: nn.Module | None = None, mapper=dict) -> dict[str, float]:
    cfg = default_config()
    cfg.DATASETS.TEST, cfg.DATALOADER.NUM_WORKERS = names, 0
    return validation_losses(cfg, model or Loss(), mapper)


def test_they_are_means_over_the_images_of_each_data_set(numbered):
    found = losses("numbered_a")
    assert found["validation/loss_a"] == (0 + 1 + 2 + 3) / 4
    assert found["validation/loss_rare"] == 6 / 4
    parts = [value for name, value in found.items() if name.startswith("validation/")]
    assert found["validation_loss"] == pytest.approx(sum(parts)) and len(parts) == 3
    both = losses("numbered_a", "numbered_b")
    assert both["numbered_a/validation_loss"] == found["validation_loss"]
    assert both["numbered_b/validation/loss_a"] == 0.5


def test_nothing_of_the_training_notices(numbered):
    model = Loss()
    model.dropout.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    buffer, random = model.mean_loss, random_state()
    with EventStorage() as storage:
        first = losses("numbered_a", model=model)
        assert not storage.latest()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert model.mean_loss is buffer and model.normalizer == 100.0 and not hasattr(model, "seen")
    assert not model.training and model.dropout.training
    assert torch.equal(random["torch"], torch.get_rng_state())
    assert losses("numbered_a", model=model) == first  # though random numbers are part of them


def test_an_error_restores_the_model_too(numbered):
    model = Loss()
    with pytest.raises(RuntimeError, match="here"), untouched(model):
        model.normalizer = 0.0
        raise RuntimeError("here")
    assert model.normalizer == 100.0


def test_processes_share_the_images_and_take_equally_many_steps(numbered, monkeypatch):
    whole, parts, steps = losses("numbered_a"), [], []
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(comm, "all_gather", lambda mine: [parts.append(mine) or mine])
        calls = []
        losses("numbered_a", mapper=lambda record, calls=calls: calls.append(record) or dict(record))
        steps.append(len(calls))
    assert steps == [2, 2, 2]
    for name in ("loss_a", "loss_random", "loss_rare"):
        total = sum(part.get(name, 0.0) for part in parts)
        assert total / 4 == pytest.approx(whole[f"validation/{name}"]), name


def test_a_data_set_without_annotations_is_named(numbered):
    with pytest.raises(DataError, match=r"0\.jpg of numbered_a has no annotations"):
        losses("numbered_a", mapper=lambda record: {"file_name": record["file_name"]})


def test_images_come_in_the_sizes_of_an_evaluation(arguments, tiny_root):
    cfg = setup(arguments("INPUT.MIN_SIZE_TEST", 48, "INPUT.CROP.ENABLED", True))
    record = DatasetCatalog.get("tiny_val")[0]
    record["annotations"][0]["bbox"] = [float(value) for value in record["annotations"][0]["bbox"]]
    sample = DatasetMapper(config_for_validation(cfg), True)(record)
    plain = DatasetMapper(cfg, False)(record)
    assert torch.equal(sample["image"], plain["image"]) and sample["image"].shape[1:] == (48, 60)
    x, y, w, h = record["annotations"][0]["bbox"]
    expected = torch.tensor([[x, y, x + w, y + h]]) * 0.75
    torch.testing.assert_close(sample["instances"].gt_boxes.tensor, expected.float(), rtol=0, atol=1e-4)


def test_a_run_writes_them_and_can_choose_by_them(arguments, tmp_path):
    run(arguments("SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 2, "TEST.VALIDATION_LOSS", True,
                  "TEST.BEST_METRIC", "validation_loss"))  # fmt: skip
    out = tmp_path / "out"
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    evaluated = [line for line in lines if "validation_loss" in line]
    assert [line["iteration"] for line in evaluated] == [1, 3]
    parts = [evaluated[0][f"validation/loss_{name}"] for name in ("cls", "box_reg", "rpn_cls", "rpn_loc")]
    assert evaluated[0]["validation_loss"] == pytest.approx(sum(parts)) and "bbox/AP" in evaluated[0]
    best = torch.load(out / "model_best.pth", weights_only=True)
    values = [line["validation_loss"] for line in evaluated]
    assert (best["iteration"], best["value"]) == ((1, values[0]) if values[0] <= values[1] else (2, values[1]))


def test_they_change_nothing_of_a_training(arguments, tmp_path):
    states = []
    for wish in (False, True):
        trainer = Trainer(setup(arguments("SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 1, "TEST.VALIDATION_LOSS", wish)))
        trainer.evaluate = dict  # an evaluation takes longer than a step
        trainer.resume_or_load(resume=False)
        trainer.train()
        states.append(torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
