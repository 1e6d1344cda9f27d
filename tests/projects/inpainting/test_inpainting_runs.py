"""Whole runs of a small inpainter: resumed, in several processes, not finite, evaluated, reported, predicted with."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import densekit
from densekit.cli import main
from densekit.cli.arguments import parse_arguments
from densekit.cli.train import run_options
from densekit.d2._host import HOST
from densekit.data import holes
from densekit.engine import run
from densekit.inference import hole_masks
from densekit.projects.inpainting import meta_arch

ROOT = Path(__file__).resolve().parents[3]
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.INPAINTING.GENERATOR.WIDTHS": "[4,5,6,4]",
    "MODEL.INPAINTING.DISCRIMINATOR.WIDTHS": "[4,5]",
    "MODEL.CARAFE.COMPRESSED_CHANNELS": "3",
    "MODEL_EMA.ENABLED": "True",
    "INPUT.MIN_SIZE_TRAIN": "(36,40)",
    "INPUT.MIN_SIZE_TEST": "36",
    "INPUT.CROP.SIZE": "(32,32)",
    "SOLVER.IMS_PER_BATCH": "4",
    "SOLVER.MAX_ITER": "6",
    "SOLVER.WARMUP_ITERS": "2",
    "SOLVER.CHECKPOINT_PERIOD": "2",
    "TEST.EVAL_PERIOD": "3",
    "DATALOADER.NUM_WORKERS": "0",
    "SEED": "3",
}


def write_photos(folder, count=7, size=(60, 74)):
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("inpainting") / "photos")


def words(photos, output, *options, config="global_local_carafe_photos", flags=()):
    data = f"form: images, images: {photos}"
    pairs = [word for pair in SMALL.items() for word in pair]
    return [
        "--config-file", str(ROOT / f"configs/inpainting/{config}.yaml"), "--train-data", data, "--val-data", data,
        *flags, *pairs, "OUTPUT_DIR", str(output), *map(str, options),
    ]  # fmt: skip


def train(photos, output, *options, **more):
    run(run_options(parse_arguments(words(photos, output, *options, **more))))
    return torch.load(output / "model_final.pth", weights_only=True)


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """The OUTPUT_DIR of a finished run."""
    folder = tmp_path_factory.mktemp("run") / "out"
    train(photos, folder)
    return folder


def last_metrics(folder):
    lines = (folder / "metrics.json").read_text().splitlines()
    return {name: value for line in lines for name, value in json.loads(line).items()}


def assert_same(one, other, where=""):
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def test_a_run_leaves_its_pictures_and_both_losses(finished):
    end = last_metrics(finished)
    assert {"loss_l1", "loss_adversarial", "loss_discriminator"} <= end.keys()
    assert {"inpainting/PSNR", "inpainting/hole_SSIM"} <= end.keys()
    assert sorted(path.name for path in (finished / "samples").iterdir())[0] == "0000002.png"
    final = torch.load(finished / "model_final.pth", weights_only=True)
    averaged = final["ema"]["tensors"]
    assert averaged and all(name.startswith("generator.") for name in averaged)


@pytest.mark.parametrize("turns", ["alternating", "joint"])
def test_a_resumed_run_ends_the_same(photos, tmp_path, turns):
    options = ["SOLVER.ACCUMULATE", 2, "MODEL.INPAINTING.TRAINING", turns, "MODEL.INPAINTING.ADVERSARY_AFTER", 1]
    whole = train(photos, tmp_path / "whole", *options)
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    (tmp_path / "again" / "last_checkpoint").write_text("model_0000001.pth")
    torch.rand(3)
    again = train(photos, tmp_path / "again", *options, flags=["--resume"])
    for key in ("model", "trainer", "ema", "iteration"):
        assert_same(whole[key], again[key], key)


def test_a_loss_that_is_not_finite_changes_neither_network(photos, tmp_path, monkeypatch, capsys):
    ordinary = meta_arch.discriminator_loss
    calls = []

    def poisoned(*args):
        calls.append(args)
        return ordinary(*args) * (float("nan") if len(calls) == 4 else 1.0)

    monkeypatch.setattr(meta_arch, "discriminator_loss", poisoned)
    with pytest.raises(SystemExit):
        train(photos, tmp_path / "out", "SOLVER.CHECKPOINT_PERIOD", 3, "TEST.EVAL_PERIOD", 0)
    assert "infinite or NaN" in capsys.readouterr().err
    assert (tmp_path / "out" / "black_box").is_dir()
    before = torch.load(tmp_path / "out" / "model_0000002.pth", weights_only=True)["model"]
    box = next((tmp_path / "out" / "black_box").rglob("*.pth"))
    saved = torch.load(box, weights_only=True)
    assert_same(dict(before), dict(saved["model"]), "the weights before the bad step")


@pytest.mark.slow
def test_two_processes_learn_what_one_does(photos, tmp_path):
    options = ["MODEL.INPAINTING.NORM", "naiveSyncBN", "MODEL_EMA.ENABLED", "False"]
    options += ["SOLVER.CHECKPOINT_PERIOD", "1000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DENSEKIT_HOST": HOST, "OMP_NUM_THREADS": "1"}
    ends = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        command = words(photos, folder, *options, flags=["--num-gpus", str(count)])
        subprocess.run(
            [sys.executable, str(ROOT / "train_net.py"), *command], env=environment, check=True, capture_output=True
        )
        ends.append((last_metrics(folder), torch.load(folder / "model_final.pth", weights_only=True)["model"]))
    (one, weights), (two, others) = ends
    for name in ("loss_l1", "loss_adversarial", "loss_discriminator"):
        assert two[name] == pytest.approx(one[name], abs=1e-5)
    for name, value in weights.items():
        # Synchronised norms keep the biased variance, which enters no loss of the training.
        if value.is_floating_point() and not name.endswith("running_var"):
            torch.testing.assert_close(others[name], value, atol=1e-4, rtol=1e-4, msg=name)


def test_the_report_shows_worst_median_and_best(finished):
    (name,) = (path.name for path in (finished / "inference").iterdir() if path.is_dir())
    assert main(["report", str(finished), "--images", "1"]) == 0
    page = (finished / "inference" / name / "report.html").read_text()
    for word in ("Painted pictures", "Worst", "Median", "Best", "hole_PSNR", "by the share of the hole"):
        assert word in page
    entries = json.loads((finished / "inference" / name / "inpainting.json").read_text())
    worst = min(entries, key=lambda entry: entry["hole_PSNR"])
    assert f"{worst['hole_PSNR']:.2f} dB" in page


# Predictions


def painted(folder, name):
    return np.asarray(Image.open(folder / "inpainted" / f"{name}.png"))


def test_predictions_change_nothing_outside_the_hole(finished, photos, tmp_path):
    mask = np.zeros((60, 74), np.uint8)
    mask[20:40, 30:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for name, more in (("whole", []), ("tiles", ["--tile", "32"])):
        out = tmp_path / name
        command = ["predict", str(finished), "--input", str(photos / "0.png"), "--mask", str(tmp_path / "mask.png")]
        assert main([*command, "--output", str(out), *more]) == 0
        before, after = np.asarray(Image.open(photos / "0.png")), painted(out, "0")
        assert after.shape == before.shape
        assert np.array_equal(after[mask == 0], before[mask == 0])
        assert not np.array_equal(after, before)


def test_the_python_interface_paints_like_the_command(finished, photos, tmp_path):
    picture, mask = photos / "0.png", tmp_path / "mask.png"
    hole = np.zeros((60, 74), np.uint8)
    hole[10:30, 20:50] = 255
    Image.fromarray(hole).save(mask)
    main(["predict", str(finished), "--input", str(picture), "--mask", str(mask), "--output", str(tmp_path / "out")])
    predictor = densekit.Predictor(finished, array_format="RGB")
    found = predictor(picture, masks=mask)["inpainted"].permute(1, 2, 0).numpy()
    found = found[:, :, ::-1] if predictor.cfg.INPUT.FORMAT == "BGR" else found
    np.testing.assert_array_equal(found, painted(tmp_path / "out", "0"))
    several = list(predictor(iter([picture, np.asarray(Image.open(picture).convert("RGB"))]), masks=[hole > 0, mask]))
    assert torch.equal(several[0]["inpainted"], several[1]["inpainted"])


def test_masks_in_python_are_checked(finished, photos):
    predictor = densekit.Predictor(finished)
    with pytest.raises(ValueError, match="give masks"):
        predictor(photos / "0.png")
    with pytest.raises(ValueError, match=r"\(H, W\) of bool"):
        predictor(photos / "0.png", masks=np.zeros((60, 74), np.uint8))
    with pytest.raises(ValueError, match="74 x 60"):
        predictor(photos / "0.png", masks=np.zeros((6, 7), bool))
    with pytest.raises(ValueError, match="fewer masks"):
        predictor([photos / "0.png"] * 2, masks=[np.zeros((60, 74), bool)])


def test_folders_of_masks_and_pictures_without_one(finished, photos, tmp_path, capfd):
    (tmp_path / "masks").mkdir()
    for number in range(6):  # the last picture has none
        mask = np.zeros((60, 74) if number else (60, 70), np.uint8)
        mask[5:20, 5:20] = 1
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(finished), "--input", str(photos), "--mask", str(tmp_path / "masks"), "--output",
              str(tmp_path / "out")])  # fmt: skip
    assert stop.value.code == 1
    assert sorted(path.stem for path in (tmp_path / "out" / "inpainted").iterdir()) == ["1", "2", "3", "4", "5"]
    reasons = (tmp_path / "out" / "unreadable.txt").read_text().splitlines()
    assert len(reasons) == 2
    assert "size of its picture" in reasons[0] and "has no mask" in reasons[1]


def test_found_objects_are_painted_over(finished, photos, tmp_path):
    found = tmp_path / "found"
    found.mkdir()
    boxes = [{"category_id": 1, "bbox": [10, 10, 20, 15]}, {"category_id": 7, "bbox": [50, 40, 10, 10]}]
    lines = [{"stem": str(number), "instances": boxes} for number in range(7)]
    (found / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (found / "coco_full.json").write_text(json.dumps({"categories": [{"id": 1, "name": "person"}]}))
    command = ["predict", str(finished), "--input", str(photos / "1.png"), "--mask", str(found)]
    assert main([*command, "--mask-classes", "person", "--mask-grow", "2", "--output", str(tmp_path / "out")]) == 0
    before, after = np.asarray(Image.open(photos / "1.png")), painted(tmp_path / "out", "1")
    changed = np.argwhere((before != after).any(axis=2))
    assert changed.min(axis=0).tolist() >= [8, 8] and changed.max(axis=0).tolist() <= [26, 31]
    assert len(changed) > 0.9 * 20 * 15
    with pytest.raises(SystemExit) as stop:
        main([*command, "--mask-classes", "dragon", "--output", str(tmp_path / "other")])
    assert stop.value.code == 2


def test_strange_pictures_are_one_clear_line(finished, photos, tmp_path, monkeypatch):
    said = []
    for module in (holes, hole_masks):
        monkeypatch.setattr(module.logger, "warning", said.append)
    pixels = np.dstack([np.asarray(Image.open(photos / "0.png")), np.full((60, 74), 90, np.uint8)])
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    command = ["predict", str(finished), "--input", str(tmp_path / "clear.png"), "--mask", str(tmp_path / "mask.png")]
    for name, fill, line in (("none", 0, "has no hole"), ("all", 255, "nothing is left")):
        Image.fromarray(np.full((60, 74), fill, np.uint8)).save(tmp_path / "mask.png")
        assert main([*command, "--output", str(tmp_path / name)]) == 0
        assert [line in said[-2], "is transparent in places" in said[-1]] == [True, True]
    assert np.array_equal(painted(tmp_path / "none", "clear"), pixels[:, :, :3])


def test_masks_are_wanted_by_models_that_paint_alone(finished, photos, tmp_path, capfd):
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(finished), "--input", str(photos), "--output", str(tmp_path / "out")])
    assert stop.value.code == 2 and "--mask FILE" in capfd.readouterr().err
