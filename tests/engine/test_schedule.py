"""Epochs in iterations and learning rates for another batch size."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from densekit.config import load_config
from densekit.config_defaults import default_config
from densekit.d2.utils.events import EventStorage
from densekit.engine import Trainer, run
from densekit.engine.schedule import ProgressPrinter, in_iterations, priorities, scale_learning_rate
from densekit.engine.setup import prepare
from densekit.solver import build_lr_scheduler

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SCHEDULE = {"IMS_PER_BATCH": 16, "REFERENCE_BATCH_SIZE": 16, "BASE_LR": 0.02, "STEPS": [60, 80], "MAX_ITER": 90}


@pytest.fixture
def load(tmp_path):
    """Loads a file on top of a base schedule; returns the config and where its keys stand."""

    def make(file=None, *opts, base=None):
        (tmp_path / "base.yaml").write_text(yaml.safe_dump({"SOLVER": SCHEDULE | (base or {})}))
        content = {"_BASE_": "base.yaml"} | ({"SOLVER": file} if file else {})
        path = str(tmp_path / "top.yaml")
        Path(path).write_text(yaml.safe_dump(content))
        words = [str(word) for word in opts]
        return load_config(path, words), priorities(path, words)

    return make


# The learning rate

B, L, R = "SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR", "SOLVER.REFERENCE_BATCH_SIZE"


@pytest.mark.parametrize(
    ("file", "opts", "rate"),
    [
        ({}, (), 0.02),
        ({}, (B, 4), 0.005),
        ({"IMS_PER_BATCH": 64}, (), 0.08),
        ({}, (B, 4, L, 0.02), 0.02),  # the user's own
        ({"IMS_PER_BATCH": 4, "BASE_LR": 0.02}, (), 0.02),
        ({}, (B, 4, R, 0), 0.02),  # switched off
        ({}, (B, 4, L, 0.1, R, 8), 0.05),  # the user's own, with its batch
        ({"BASE_LR": 0.01, "IMS_PER_BATCH": 8, "REFERENCE_BATCH_SIZE": 8}, (B, 2), 0.0025),
    ],
)
def test_the_rate_follows_the_batch_unless_it_stands_nearer(load, file, opts, rate):
    cfg, given = load(file, *opts)
    before = cfg.SOLVER.BASE_LR
    note = scale_learning_rate(cfg, given)
    assert pytest.approx(rate) == cfg.SOLVER.BASE_LR
    assert (note is None) == (before == cfg.SOLVER.BASE_LR)
    if note:
        assert f"{before:g} -> {rate:g}" in note and "SOLVER.REFERENCE_BATCH_SIZE 0" in note


def test_adamw_follows_the_root_and_the_end_goes_along(load):
    cfg, given = load({}, B, 4, "SOLVER.OPTIMIZER", "AdamW", base={"BASE_LR_END": 0.002})
    scale_learning_rate(cfg, given)
    assert pytest.approx((0.01, 0.001)) == (cfg.SOLVER.BASE_LR, cfg.SOLVER.BASE_LR_END)


def test_the_configuration_of_a_run_is_not_scaled_again(load, tmp_path):
    cfg, given = load({}, B, 4)
    scale_learning_rate(cfg, given)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    for opts, rate in (([], 0.005), ([B, "8"], 0.01), ([L, "0.3", B, "8"], 0.3)):
        again = load_config(str(tmp_path / "config.yaml"), opts)
        scale_learning_rate(again, priorities(str(tmp_path / "config.yaml"), opts))
        assert pytest.approx(rate) == again.SOLVER.BASE_LR


def test_the_hosts_scaling_to_the_processes_goes_on_from_there(load):
    cfg, given = load({}, B, 8, "SOLVER.REFERENCE_WORLD_SIZE", 8)
    scale_learning_rate(cfg, given)
    scaled = Trainer.auto_scale_workers(cfg, 2)
    assert scaled.SOLVER.IMS_PER_BATCH == 2
    assert pytest.approx(0.02 * 2 / 16) == scaled.SOLVER.BASE_LR


def test_a_run_that_was_scaled_to_its_processes_starts_again_as_it_was(arguments, tmp_path):
    def solver():
        return yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["SOLVER"]

    references = ("SOLVER.REFERENCE_BATCH_SIZE", 8, "SOLVER.REFERENCE_WORLD_SIZE", 2)
    args = arguments(*references, B, 4, "SOLVER.MAX_ITER", 2, "DATASETS.TEST", "()")
    run(args)  # one process
    once = solver()
    assert once["IMS_PER_BATCH"] == once["REFERENCE_BATCH_SIZE"] == 2 and once["MAX_ITER"] == 4
    assert once["BASE_LR"] == pytest.approx(0.001 / 4)
    run(replace(args, config_file=str(tmp_path / "out" / "config.yaml"), opts=[]))
    assert solver() == once


def test_a_negative_reference_is_refused(load):
    cfg, given = load({}, R, -1)
    with pytest.raises(ValueError, match=r"REFERENCE_BATCH_SIZE is -1"):
        scale_learning_rate(cfg, given)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("[!_]*/**/*.yaml")), ids=lambda path: path.stem)
def test_every_config_has_the_rate_that_it_says(path):
    cfg = load_config(str(path))
    assert scale_learning_rate(cfg, priorities(str(path), [])) is None
    rate = cfg.SOLVER.BASE_LR
    if cfg.SOLVER.REFERENCE_BATCH_SIZE:  # twice the batch changes the rate
        opts = [B, str(2 * cfg.SOLVER.IMS_PER_BATCH)]
        cfg = load_config(str(path), opts)
        assert scale_learning_rate(cfg, priorities(str(path), opts)) is not None
        factor = 2**0.5 if cfg.SOLVER.OPTIMIZER == "AdamW" else 2
        assert pytest.approx(rate * factor) == cfg.SOLVER.BASE_LR


def test_setup_says_what_it_changes(arguments):
    opts = ("SOLVER.REFERENCE_BATCH_SIZE", 8)
    cfg, _, notes = prepare(arguments(*opts), writes=False)
    # The rate stands in the file, and the batch size that it is for nearer.
    assert pytest.approx(0.00025) == cfg.SOLVER.BASE_LR and "0.001 -> 0.00025" in notes[-1]
    assert pytest.approx(0.001) == prepare(arguments(*opts, eval_only=True), writes=False)[0].SOLVER.BASE_LR


# Epochs

E, M, S = "SOLVER.MAX_EPOCHS", "SOLVER.MAX_ITER", "SOLVER.STEPS"


def test_epochs_set_the_length_and_what_belongs_to_it(load, caplog):
    cfg, given = load({}, E, 3.0, base={"WARMUP_ITERS": 9, "CHECKPOINT_PERIOD": 45})
    same = in_iterations(cfg, 480, given).SOLVER
    assert (same.MAX_ITER, tuple(same.STEPS), same.WARMUP_ITERS) == (90, (60, 80), 9)
    short = in_iterations(cfg, 160, given).SOLVER
    assert (short.MAX_ITER, tuple(short.STEPS), short.WARMUP_ITERS, short.CHECKPOINT_PERIOD) == (30, (20, 27), 3, 15)
    long = in_iterations(cfg, 960, given).SOLVER
    assert (long.MAX_ITER, tuple(long.STEPS), long.WARMUP_ITERS, long.CHECKPOINT_PERIOD) == (180, (120, 160), 9, 90)
    assert cfg.SOLVER.MAX_ITER == 90
    with caplog.at_level(logging.INFO):
        in_iterations(cfg, 160, given)
    assert "3 epochs of 160 images: SOLVER.MAX_ITER 90 -> 30, SOLVER.STEPS" in caplog.text


@pytest.mark.parametrize(
    ("size", "epochs", "iterations"),
    [(160, 1.0, 10), (161, 1.0, 11), (160, 0.5, 5), (3, 0.1, 1), (48, 0.1, 1), (160, 0.3, 3)],
)
def test_the_last_batch_is_filled_up(load, size, epochs, iterations):
    cfg, given = load({}, E, epochs)
    assert iterations == in_iterations(cfg, size, given).SOLVER.MAX_ITER


def test_what_is_given_beside_the_epochs_stays(load):
    cfg, given = load({}, E, 3.0, S, "(7, 9)", "TEST.EVAL_PERIOD", 5)
    new = in_iterations(cfg, 160, given)
    assert (tuple(new.SOLVER.STEPS), new.TEST.EVAL_PERIOD, new.SOLVER.MAX_ITER) == ((7, 9), 5, 30)
    cfg, given = load({"MAX_EPOCHS": 3.0, "STEPS": [7, 9]})
    assert tuple(in_iterations(cfg, 160, given).SOLVER.STEPS) == (7, 9)
    # Steps in the file belong to its iterations, which the command line replaces.
    cfg, given = load({"STEPS": [30, 60]}, E, 3.0)
    assert tuple(in_iterations(cfg, 160, given).SOLVER.STEPS) == (10, 20)


@pytest.mark.parametrize(("length", "told"), [(100, True), (101, False)])
def test_a_warm_up_without_an_end_is_told(load, caplog, length, told):
    cfg, _ = load({"WARMUP_ITERS": 100, "MAX_ITER": length, "STEPS": []})
    build_lr_scheduler(cfg, torch.optim.SGD([torch.zeros(1)], lr=1.0))
    assert ("the learning rate never reaches SOLVER.BASE_LR" in caplog.text) == told


def test_steps_that_a_short_run_brings_together_stay_apart(load):
    cfg, given = load({}, E, 1.0)
    assert tuple(in_iterations(cfg, 16, given).SOLVER.STEPS) == (1, 2)


def test_iterations_nearer_than_epochs_count(load):
    cfg, given = load({"MAX_EPOCHS": 3.0}, M, 5)
    assert in_iterations(cfg, 160, given) is cfg
    cfg, given = load()
    assert in_iterations(cfg, None, given) is cfg


@pytest.mark.parametrize(
    ("opts", "size", "message"),
    [
        ((E, -1.0), 160, "MAX_EPOCHS is -1"),
        ((E, "float('nan')"), 160, "MAX_EPOCHS is nan"),
        ((E, 3.0, M, 5), 160, "both say how long"),
        ((E, 3.0), None, "a stream of images has no epochs"),
    ],
)
def test_epochs_that_make_no_sense_are_refused(load, opts, size, message):
    if "nan" in str(opts[1]):
        cfg, given = default_config(), {}
        cfg.SOLVER.MAX_EPOCHS = float("nan")
    else:
        cfg, given = load({}, *opts)
    with pytest.raises(ValueError, match=message):
        in_iterations(cfg, size, given)


def test_a_run_of_epochs(arguments, tmp_path):
    run(arguments(E, 2.0, "DATASETS.TEST", "()"))  # 6 images, 2 in a step
    out = tmp_path / "out"
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert next(line for line in reversed(lines) if "epoch" in line)["epoch"] == pytest.approx(2.0)
    assert "2 epochs of 6 images: SOLVER.MAX_ITER 4 -> 6" in (out / "log.txt").read_text()
    saved = yaml.safe_load((out / "config.yaml").read_text())["SOLVER"]
    assert (saved["MAX_ITER"], saved["MAX_EPOCHS"]) == (6, 2.0)
    assert "epoch: 2.00" in (out / "log.txt").read_text()


def test_the_line_of_progress_has_the_epoch_if_there_is_one(caplog):
    with EventStorage(3) as storage, caplog.at_level(logging.INFO):
        logger = logging.getLogger(ProgressPrinter().logger.name)
        logger.addHandler(caplog.handler)
        try:
            for epoch in (None, 1.239):
                if epoch:
                    storage.put_scalar("epoch", epoch, smoothing_hint=False)
                storage.put_scalar("total_loss", 2.0)
                ProgressPrinter(10).write()
        finally:
            logger.removeHandler(caplog.handler)
    lines = dict.fromkeys(caplog.messages)
    assert ["epoch" in line for line in lines] == [False, True]
    assert list(lines)[1].endswith("epoch: 1.24") and "total_loss: 2" in list(lines)[1]
