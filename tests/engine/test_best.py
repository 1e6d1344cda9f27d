"""Best weights, early stopping, the average of the weights: what is kept, over interruptions too."""

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from densekit.checkpoint.folder import CheckpointFolder
from densekit.config_defaults import default_config
from densekit.d2 import HOST
from densekit.engine import Trainer, run, setup
from densekit.engine.best import Scores
from densekit.engine.ema import WeightAverage, averaged, note_on_start

ROOT = Path(__file__).resolve().parents[2]


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def load(folder: Path, name: str) -> dict:
    return torch.load(folder / f"{name}.pth", weights_only=True)


def equal(one: dict, other: dict) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def scripted(monkeypatch, values: dict[int, float]) -> list[int]:
    """Evaluations that cost nothing and give AP by the number of iterations done; returns those that took place."""
    calls: list[int] = []

    def evaluate(self) -> dict:
        # From the weights' own history, as an evaluation has no other way to know.
        done = int(next(v["step"] for v in self.optimizer.state.values())) if self.optimizer.state else 0
        calls.append(done)
        self._last_eval_results = {"bbox": {"AP": values[done]}}
        return self._last_eval_results

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    return calls


OPTS = ("SOLVER.OPTIMIZER", "AdamW", "SOLVER.CHECKPOINT_PERIOD", 100, "TEST.EVAL_PERIOD", 1, "TEST.BEST_METRIC")


def train(arguments, *opts: object, resume: bool = False) -> Trainer:
    trainer = Trainer(setup(arguments(*OPTS, "bbox/AP", *opts, resume=resume)))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


# Scores


def test_the_largest_is_best_and_of_losses_the_smallest_and_nan_never():
    scores, losses = Scores("bbox/AP"), Scores("validation_loss")
    for iteration, value in enumerate((math.nan, 2.0, 3.0, 3.0, math.inf, 1.0)):
        news = scores.add(iteration, {"bbox/AP": value}), losses.add(iteration, {"validation_loss": value})
        assert news == (iteration in (1, 2), iteration in (1, 5))
    assert scores.best == (2, 3.0) and losses.best == (5, 1.0)
    assert scores.top(3) == [2, 3, 1] and losses.top(2) == [5, 1]
    assert (scores.since_best, losses.since_best) == (3, 0)
    assert Scores("bbox/AP", "min").add(0, {"bbox/AP": 1.0})


def test_scores_survive_and_forget_what_will_be_repeated():
    scores = Scores("bbox/AP")
    for iteration, value in ((1, 5.0), (3, 9.0), (5, 7.0)):
        scores.add(iteration, {"bbox/AP": value})
    again = Scores("bbox/AP")
    again.load_state_dict(scores.state_dict())
    assert again.values == scores.values
    assert not again.add(3, {"bbox/AP": 4.0})  # the run went on from the checkpoint before
    assert again.values == {1: 5.0, 3: 4.0}
    other = Scores("segm/AP")
    other.load_state_dict(scores.state_dict())
    assert not other.values
    again.complete([[3, 1.0], [4, 2.0], [9, 8.0]], last=4)
    assert again.values == {1: 5.0, 3: 4.0, 4: 2.0}


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["TEST.EARLY_STOPPING", 2], "TEST.EARLY_STOPPING needs a metric"),
        (["TEST.EARLY_STOPPING", -1], "counts evaluations"),
        (["TEST.EARLY_STOPPING", 2, "TEST.BEST_METRIC", "bbox/AP"], r"set TEST\.EVAL_PERIOD"),
        (["TEST.BEST_METRIC", "validation_loss"], "needs TEST.VALIDATION_LOSS True"),
        (["TEST.BEST_METRIC", "bbox/AP", "DATASETS.TEST", ("a", "b")], "such as a/bbox/AP"),
        (["TEST.BEST_METRIC", "bbox/AP", "DATASETS.TEST", ()], "nothing to evaluate on"),
        (["TEST.BEST_METRIC", "bbox/AP", "DATASETS.TEST", ("a",), "TEST.BEST_MODE", "up"], "'max', 'min'"),
    ],
)
def test_what_no_evaluation_can_give_is_refused_before_the_training(opts, message):
    cfg = default_config()
    cfg.DATASETS.TEST = ("a",)
    cfg.merge_from_list(opts)
    with pytest.raises(ValueError, match=message):
        Scores.from_config(cfg)


def test_one_data_set_may_be_named_or_not():
    cfg = default_config()
    cfg.DATASETS.TEST, cfg.TEST.BEST_METRIC = ("a",), "a/bbox/AP"
    assert Scores.from_config(cfg).metric == "bbox/AP"


def test_an_unknown_metric_is_an_error_at_the_first_evaluation(arguments, monkeypatch, capsys):
    scripted(monkeypatch, {1: 1.0})
    assert not Scores("bbox/PA").add(1, {})  # nothing to judge, as where nothing was detected
    with pytest.raises(SystemExit) as stop:
        run(arguments(*OPTS, "bbox/PA"))
    assert stop.value.code == 2
    assert "'bbox/PA': the evaluation gave no such result. There are: bbox/AP" in capsys.readouterr().err


# Runs


def test_the_best_is_kept_and_remembered(arguments, tmp_path, monkeypatch):
    out, values = tmp_path / "out", {1: 1.0, 2: 5.0, 3: math.nan, 4: 3.0, 5: 4.0, 6: 6.0}
    scripted(monkeypatch, values)
    train(arguments, "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_KEEP", 1)
    best = load(out, "model_best")
    assert (best["iteration"], best["metric"], best["value"]) == (1, "bbox/AP", 5.0)
    assert equal(best["model"], load(out, "model_0000001")["model"])
    # The newest periodic checkpoint, and the best one.
    assert sorted(path.name for path in out.glob("model_0*.pth")) == ["model_0000001.pth", "model_0000002.pth"]
    assert "model_best.pth" in CheckpointFolder(out).sums()
    assert CheckpointFolder(out).problem(out / "model_best.pth") is None
    assert (out / "last_checkpoint").read_text() == "model_final.pth"

    trainer = train(arguments, "SOLVER.MAX_ITER", 5, resume=True)
    assert load(out, "model_best")["iteration"] == 1
    assert trainer._scores.values == {0: 1.0, 1: 5.0, 2: None, 3: 3.0, 4: 4.0}
    train(arguments, "SOLVER.MAX_ITER", 6, resume=True)
    assert (load(out, "model_best")["iteration"], load(out, "model_best")["value"]) == (5, 6.0)


def test_the_best_weights_are_nothing_to_resume_from(arguments, tmp_path, monkeypatch):
    scripted(monkeypatch, {1: 2.0, 2: 1.0})
    train(arguments, "SOLVER.MAX_ITER", 2)
    (tmp_path / "out" / "last_checkpoint").unlink()
    names = [file.name for file in CheckpointFolder(tmp_path / "out").newest_first()]
    assert names == ["model_final.pth", "model_0000000.pth"]


def test_a_training_that_does_not_improve_ends_and_stays_ended(arguments, tmp_path, monkeypatch):
    calls = scripted(monkeypatch, {1: 1.0, 2: 5.0, 3: 4.0, 4: 5.0, 5: 9.0})
    args = arguments(*OPTS, "bbox/AP", "SOLVER.MAX_ITER", 5, "TEST.EARLY_STOPPING", 2, resume=True)
    assert run(args) == {"bbox": {"AP": 5.0}}
    out = tmp_path / "out"
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    assert load(out, "model_final")["iteration"] == 3 and load(out, "model_best")["iteration"] == 1
    log = (out / "log.txt").read_text()
    assert "ends early, after 4 of 5 iterations: 2 evaluations have not improved bbox/AP" in log
    before = load(out, "model_final")["model"]
    run(args)  # as a scheduler does that starts it once more
    assert calls == [1, 2, 3, 4]
    assert load(out, "model_final")["iteration"] == 3 and equal(before, load(out, "model_final")["model"])
    train(arguments, "SOLVER.MAX_ITER", 5, "TEST.EARLY_STOPPING", 3, resume=True)
    assert load(out, "model_best")["value"] == 9.0


def test_what_ends_early_is_judged_with_augmentation_once_like_what_ends_late(arguments, tmp_path, monkeypatch):
    scripted(monkeypatch, {1: 1.0, 2: 5.0, 3: 4.0, 4: 5.0, 5: 9.0})
    judged = []

    def augmented(cls, cfg, model):
        judged.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"bbox_TTA": {"AP": 7.0}}

    monkeypatch.setattr(Trainer, "test_with_TTA", classmethod(augmented))
    out, average = tmp_path / "out", ("MODEL_EMA.ENABLED", True)
    opts = (*OPTS, "bbox/AP", "SOLVER.MAX_ITER", 5, "TEST.AUG.ENABLED", True, *average)
    assert run(arguments(*opts, "TEST.EARLY_STOPPING", 2)) == {"bbox": {"AP": 5.0}, "bbox_TTA": {"AP": 7.0}}
    lines = [line["iteration"] for line in metrics(out) if "bbox_TTA/AP" in line]
    assert (len(judged), lines, load(out, "model_final")["iteration"]) == (1, [3], 3)
    assert equal(judged[0], load(out, "model_final")["model"])  # the average
    assert run(arguments(*opts)) == {"bbox": {"AP": 9.0}, "bbox_TTA": {"AP": 7.0}}
    assert len(judged) == 2 and [line["iteration"] for line in metrics(out) if "bbox_TTA/AP" in line] == [5]


def test_an_interrupted_evaluation_counts_once(arguments, tmp_path, monkeypatch):
    values = {1: 1.0, 2: 5.0, 3: 4.0, 4: 3.0, 5: 9.0}
    calls = scripted(monkeypatch, values)
    ordinary = Trainer.evaluate

    def interrupted(self):
        if self.iter == 2 and self.start_iter == 0:
            raise SystemExit(75)
        return ordinary(self)

    monkeypatch.setattr(Trainer, "evaluate", interrupted)
    opts = ("SOLVER.MAX_ITER", 5, "TEST.EARLY_STOPPING", 2)
    with pytest.raises(SystemExit):
        train(arguments, *opts)
    trainer = train(arguments, *opts, resume=True)
    assert calls == [1, 2, 3, 4]
    assert trainer._scores.values == {0: 1.0, 1: 5.0, 2: 4.0, 3: 3.0}
    assert load(tmp_path / "out", "model_best")["iteration"] == 1
    assert [line["iteration"] for line in metrics(tmp_path / "out") if "bbox/AP" in line] == [0, 1, 2, 3]


# The average of the weights


def test_the_average_is_that_of_the_formula():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    model[1].bias = model[0].bias  # one tensor, two names
    model.register_buffer("steps", torch.zeros(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    average = WeightAverage(model, 0.9)
    expected = {name: value.clone().double() for name, value in model.state_dict().items()}
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        model.steps = model.steps + 1  # another tensor of the same name
        average.update()
        for name, value in model.state_dict().items():
            floating = value.is_floating_point()
            expected[name] = 0.9 * expected[name] + 0.1 * value if floating else value.clone()
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    assert not equal(expected, {name: value.double() for name, value in trained.items()})
    with averaged(average):
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-5, atol=1e-7)
    assert equal(trained, model.state_dict())
    with averaged(None):
        assert equal(trained, model.state_dict())


def test_a_ramp_forgets_the_start_and_goes_on_where_it_was():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average, expected = WeightAverage(model, 0.9, ramp=5.0), 0.0
    nn.init.ones_(model.weight)
    for number in range(1, 9):
        if number == 4:  # in another process
            state = average.state_dict()
            average = WeightAverage(model, 0.9, ramp=5.0)
            average.load_state_dict(state)
        average.update()
        decay = 0.9 * (1 - math.exp(-number / 5))
        expected = decay * expected + (1 - decay)
        assert average.state_dict()["tensors"]["weight"].item() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match=r"MODEL_EMA\.RAMP is -1"):
        WeightAverage(model, 0.9, ramp=-1)


def test_a_step_that_the_device_skips_leaves_the_average_alone():
    model = nn.Linear(3, 4)
    average = WeightAverage(model, 0.9)
    before = {name: value.clone() for name, value in average.state_dict()["tensors"].items()}
    nn.init.ones_(model.weight)
    for skipped, expected in (
        (True, before["weight"]),
        (torch.tensor(True), before["weight"]),
        (torch.tensor(False), 0.9 * before["weight"] + 0.1),
    ):
        average.update(skipped)
        torch.testing.assert_close(average.state_dict()["tensors"]["weight"], expected)


def test_an_average_is_restored_also_where_it_was_saved_as_the_model():
    one, other = nn.Linear(3, 4), nn.Linear(3, 4)
    average = WeightAverage(one, 0.5)
    nn.init.ones_(one.weight)
    average.update()
    for exchanged in (False, True):
        if exchanged:
            average.exchange()
        copied = WeightAverage(other, 0.5)
        other.load_state_dict(one.state_dict())
        copied.load_state_dict(average.state_dict())
        assert copied.loaded and (other.weight == 1).all()
        with averaged(copied):
            assert not (other.weight == 1).any()
    with pytest.raises(ValueError, match="of another model: 2 of 2"):
        WeightAverage(nn.Linear(2, 4), 0.5).load_state_dict(average.state_dict() | {"tensors": {}})
    with pytest.raises(ValueError, match=r"MODEL_EMA\.DECAY is 1"):
        WeightAverage(one, 1)


def test_the_average_is_what_is_evaluated_and_kept(arguments, tmp_path, monkeypatch):
    seen = []

    def test(cls, cfg, model, evaluators=None):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"bbox": {"AP": float(len(seen))}}

    monkeypatch.setattr(Trainer, "test", classmethod(test))
    ema = ("MODEL_EMA.ENABLED", True, "MODEL_EMA.DECAY", 0.5, "SOLVER.MAX_ITER", 3)
    train(arguments, *ema)
    out = tmp_path / "out"
    final, periodic = load(out, "model_final"), load(out, "model_0000001")
    assert equal(final["model"], seen[2]) and equal(load(out, "model_best")["model"], seen[2])
    assert equal(periodic["ema"]["tensors"], seen[1]) and not equal(periodic["model"], seen[1])
    weight = "roi_heads.box_predictor.cls_score.weight"
    assert not torch.equal(final["ema"]["tensors"][weight], final["model"][weight])  # what a longer run goes on with
    for name, expected in (("model_0000001", seen[1]), ("model_final", seen[2]), ("model_best", seen[2])):
        run(arguments(*ema, "MODEL.WEIGHTS", out / f"{name}.pth", eval_only=True))
        assert equal(seen[-1], expected), name
    run(arguments("MODEL.WEIGHTS", out / "model_0000001.pth", eval_only=True))
    assert equal(seen[-1], periodic["model"])


def test_a_run_that_begins_or_ceases_to_average_says_so(arguments, monkeypatch, caplog):
    scripted(monkeypatch, {1: 1.0, 2: 2.0, 3: 3.0})
    train(arguments, "SOLVER.MAX_ITER", 1)
    with caplog.at_level(logging.WARNING):
        train(arguments, "SOLVER.MAX_ITER", 2, "MODEL_EMA.ENABLED", True, resume=True)
        assert "has no average of the weights" in caplog.text
        train(arguments, "SOLVER.MAX_ITER", 3, resume=True)
    assert "goes on with the average alone" in caplog.text


@pytest.mark.slow
def test_two_processes_agree_on_the_end(tiny_root, tmp_path):
    form = "{{form: coco, json: coco/annotations/instances_{0}2017.json, images: coco/{0}2017}}\n"
    entries = "".join(f"tiny_{split}: {form.format(split)}" for split in ("train", "val"))
    (tiny_root / "both.yaml").write_text(entries)
    losses = []
    for processes in (1, 2):
        command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(tiny_root / "tiny.yaml")]
        command += ["--num-gpus", str(processes), "--datasets", str(tiny_root / "both.yaml")]
        # Weights that stand still improve nothing.
        command += [
            "SOLVER.MAX_ITER",
            "9",
            "SOLVER.BASE_LR",
            "0.0",
            "TEST.EVAL_PERIOD",
            "1",
            "TEST.EARLY_STOPPING",
            "1",
        ]
        command += ["TEST.VALIDATION_LOSS", "True", "TEST.BEST_METRIC", "validation_loss", "MODEL_EMA.ENABLED", "True"]
        out = tmp_path / str(processes)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "DENSEKIT_HOST": HOST}
        command += ["OUTPUT_DIR", str(out)]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=200)
        assert load(out, "model_final")["iteration"] == 1 and load(out, "model_best")["iteration"] == 0
        losses.append([line["validation_loss"] for line in metrics(out) if "validation_loss" in line])
    assert losses[0][0] == losses[0][1] and losses[1] == pytest.approx(losses[0])


def test_an_average_that_keeps_the_random_start_is_named():
    keys = default_config().MODEL_EMA
    keys.DECAY = 0.998
    assert "over 767 iterations leaves 22% of the first weights" in note_on_start(keys, 767)
    assert note_on_start(keys, 3000) == ""
    keys.RAMP = 2000.0
    assert note_on_start(keys, 767) == ""
