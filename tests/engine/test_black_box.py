"""A step that is not finite leaves all that it takes to run it again, and the replay finds the spot."""

import dataclasses
import math
import re
import subprocess

import pytest
import torch

from densekit.data.mapper import MAPPERS
from densekit.engine import Trainer, run, setup
from densekit.engine.black_box import BlackBox, read_box
from densekit.engine.randomness import Moment
from densekit.engine.replay import FirstBad
from densekit.engine.step import StepRecord

TRAIN = ["DATASETS.TEST", "()", "SOLVER.MAX_ITER", 6, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATE", 2]


class Poison:
    """The host's mapper, with a hole in the pixels of one picture."""

    def __init__(self, cfg, is_train):
        self.mapper = MAPPERS.get("DatasetMapper")(cfg, is_train)

    def __call__(self, record):
        record = self.mapper(record)
        if record["file_name"].endswith("3.jpg"):
            record["image"] = record["image"].float()
            record["image"][:, 5, 5] = math.nan
        return record


@pytest.fixture
def poisoned_pixels(monkeypatch):
    monkeypatch.setitem(MAPPERS._obj_map, "Poison", Poison)


def poison_weights(monkeypatch, at):
    ordinary = Trainer.run_step

    def poisoned(self):
        if self.iter == at:
            with torch.no_grad():
                self.model.roi_heads.box_predictor.cls_score.bias[3] = math.inf
        ordinary(self)

    monkeypatch.setattr(Trainer, "run_step", poisoned)


def contents(folder):
    """Every file but the log, which this process has open from the run before."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "log.txt"}


def replayed(arguments, box, capsys):
    """What the replay says, and its exit code."""
    config = str(box.parents[1] / "config.yaml")
    args = dataclasses.replace(arguments(), config_file=config, opts=[], replay=str(box))
    capsys.readouterr()
    code = 0
    try:
        run(args)
    except SystemExit as end:
        code = end.code
    return capsys.readouterr().out, code


def test_a_bad_step_is_replayed_with_the_same_losses(arguments, tmp_path, monkeypatch, capsys):
    poison_weights(monkeypatch, at=2)
    with pytest.raises(SystemExit) as end:
        run(arguments(*TRAIN))
    (said,) = re.findall(r"^error: .*$", capsys.readouterr().err, re.MULTILINE)
    assert end.value.code == 2 and re.search(r"Iteration 2.*loss_cls.*replay\.sh", said)
    monkeypatch.undo()
    folder = tmp_path / "out" / "black_box"
    assert [path.name for path in folder.iterdir()] == ["iter_0000002"]
    facts, state = read_box(folder / "iter_0000002")
    (process,) = facts["processes"]
    assert len(process["files"]) == len(process["draws"]) == 4
    assert facts["losses"][0]["loss_cls"] in ("nan", "inf") and facts["norms"]["roi_heads"] == "nan"
    assert math.isfinite(facts["losses"][0]["loss_rpn_cls"]) and math.isfinite(facts["norms"]["proposal_generator"])
    assert 0 < facts["lr"] <= 0.001
    assert state["model"]["roi_heads.box_predictor.cls_score.bias"][3] == math.inf

    files = contents(tmp_path / "out")
    said, code = replayed(arguments, folder / "iter_0000002", capsys)
    assert code == 0
    assert "roi_heads.box_predictor.cls_score (Linear)" in said and "its inputs are finite" in said
    assert "Weight with values that are not finite: roi_heads.box_predictor.cls_score.bias" in said
    assert "The step is not finite again." in said
    for name in ("loss_rpn_cls", "loss_rpn_loc", "loss_box_reg"):
        again = [float(value) for value in re.findall(rf" {name}: (\S+)", said)]
        # On Detectron2 the run before has left this process a handler that writes each line once more.
        again = again[:: len(again) // 2]
        assert len(again) == 2  # micro-batches
        assert sum(again) / 2 == pytest.approx(facts["losses"][0][name], rel=1e-4)
    assert contents(tmp_path / "out") == files


def test_bad_pixels_are_found_where_they_enter_and_skipped_on_request(arguments, tmp_path, poisoned_pixels, capsys):
    run(arguments(*TRAIN, "INPUT.MAPPER", "Poison", "SOLVER.NAN_SKIP", 6))
    assert (tmp_path / "out" / "model_final.pth").is_file()
    boxes = sorted((tmp_path / "out" / "black_box").iterdir())
    assert boxes
    final = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert all(value.isfinite().all() for value in final.values())
    said, code = replayed(arguments, boxes[0], capsys)
    assert code == 0
    assert re.search(r"Image with values that are not finite: \S+03.jpg", said)
    assert "backbone.bottom_up.stem.conv1.norm (BatchNorm2d)" in said and "its inputs hold such values too" in said


def test_a_step_that_is_finite_this_time_says_so(arguments, tmp_path, poisoned_pixels, capsys):
    with pytest.raises(SystemExit):
        run(arguments(*TRAIN, "INPUT.MAPPER", "Poison"))
    (box,) = (tmp_path / "out" / "black_box").iterdir()
    config = tmp_path / "out" / "config.yaml"
    config.write_text(config.read_text().replace("MAPPER: Poison", "MAPPER: ''"))
    said, code = replayed(arguments, box, capsys)
    assert code == 1 and "All losses and gradients are finite this time." in said


def test_the_script_calls_the_launcher(arguments, tmp_path, monkeypatch):
    script = tmp_path / "bin" / "train_net.py"
    script.parent.mkdir()
    script.write_text("import os, sys\nprint(sys.argv[1:], os.environ['DENSEKIT_HOST'], os.getcwd())\n")
    monkeypatch.setattr("sys.argv", [str(script)])
    monkeypatch.chdir(tmp_path)
    box = BlackBox("out", torch.nn.Linear(1, 1), None, 1)
    assert "cannot be drawn again" in box(StepRecord(7, ["a b.jpg"], Moment(), 0.1, error="There."), True)
    folder = tmp_path / "out" / "black_box" / "iter_0000007"
    said = subprocess.run(["sh", str(folder / "replay.sh")], cwd="/", check=True, capture_output=True, text=True)
    from densekit.d2 import HOST

    words = ["--config-file", str(tmp_path / "out" / "config.yaml"), "--replay", str(folder)]
    assert said.stdout.strip() == f"{words} {HOST} {tmp_path}"


def test_folders_are_whole_few_and_no_obstacle(tmp_path, monkeypatch):
    box = BlackBox(str(tmp_path), torch.nn.Linear(1, 1), None, 1)
    record = StepRecord(0, [], Moment(), 0.1)
    with monkeypatch.context() as patch:

        def fail(*_):
            raise OSError("disk full")

        patch.setattr(torch, "save", fail)
        assert box(record, True) == ""
        assert not list((tmp_path / "black_box").iterdir())
    for iteration in range(12):
        record.iteration = iteration
        box(record, True)
    names = sorted(path.name for path in (tmp_path / "black_box").iterdir())
    assert names == [f"iter_{iteration:07d}" for iteration in range(10)]


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_what_is_no_black_box_is_refused(tmp_path, content):
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "state.pth")
    if content is not None:
        (tmp_path / "step.json").write_text(content)
    if content == "{}":
        torch.save({"model": {"a": torch.ones(1)}, "random_states": [{}]}, tmp_path / "state.pth")
    with pytest.raises(ValueError, match="--replay"):
        read_box(tmp_path)


def test_the_first_bad_module_is_the_innermost():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.LogSigmoid(), torch.nn.ReLU()))
    with torch.no_grad():
        model[0].weight.fill_(-math.inf)
    with FirstBad(model) as first:
        model(torch.ones(1, 2))
    assert first.found.startswith("0 (Linear), 2 of 2 values")
    with FirstBad(model[1]) as first:
        model[1](torch.ones(1, 2))
    assert first.found == ""


def test_draws_are_those_that_the_loader_gives(arguments):
    trainer = Trainer(setup(arguments("SOLVER.MAX_ITER", 1)))
    order = trainer._order
    given = [next(batches) for batches in [iter(order)] for _ in range(8)]
    assert [order.draws(step) for step in range(8)] == given
