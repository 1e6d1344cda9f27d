"""The Python interface: models, predictions, training and evaluation as calls; the lines that README and docs show."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import densekit
from densekit.config import load_config
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.engine import Trainer
from tests.engine.conftest import ROOT, TINY, write_coco

pytestmark = pytest.mark.usefixtures("restore_process_state")
README, DOCS = ROOT / "README.md", ROOT / "docs" / "python_api.md"


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    """A folder with own data in ``cells``, a tiny configuration ``tiny.yaml`` and pictures."""
    root = tmp_path_factory.mktemp("python")
    for split, count in (("train", 6), ("val", 3)):
        write_coco(root, split, count)
        shutil.move(root / "coco" / "annotations" / f"instances_{split}2017.json", root / f"{split}.json")
        (root / "coco" / f"{split}2017").rename(root / split)
    config = {**TINY, "DATASETS": {"TRAIN": ["own_train"], "TEST": ["own_val"]}}
    (root / "tiny.yaml").write_text(yaml.safe_dump(config))
    return root


def data(root: Path, split: str) -> dict:
    return {"form": "coco", "json": root / f"{split}.json", "images": root / split}


@pytest.fixture(scope="module")
def run_folder(cells, tmp_path_factory) -> Iterator[Path]:
    """A run of two steps with its evaluation."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    opts = {"SOLVER.MAX_ITER": 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0}
    results = densekit.train(
        cells / "tiny.yaml", opts, output_dir=folder, train_data=data(cells, "train"), val_data=data(cells, "val")
    )
    assert results is not None and "AP" in results["bbox"]
    yield folder
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in ("own_train", "own_val"):
            catalog.pop(name, None)


@pytest.fixture
def picture(cells) -> Path:
    return sorted((cells / "val").iterdir())[0]


def same(one: dict, other: dict) -> bool:
    a, b = one["instances"], other["instances"]
    return torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor) and torch.equal(a.scores, b.scores)


def test_import_is_light():
    code = "import sys, densekit; dir(densekit); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = densekit.nothing_of_that_name


def test_training_writes_a_run_and_leaves_no_log_open(run_folder, cells):
    assert {"config.yaml", "metrics.json", "model_final.pth", "datasets.yaml"} <= set(os.listdir(run_folder))
    assert yaml.safe_load((run_folder / "datasets.yaml").read_text())["own_val"]["images"] == str(cells / "val")
    assert not [h for h in logging.getLogger("densekit").handlers if isinstance(h, logging.FileHandler)]


def test_every_kind_of_source_is_the_same_model(run_folder):
    model = densekit.load_model(run_folder)
    assert not model.training
    config = load_config(str(run_folder / "config.yaml"))
    weights = run_folder / "model_final.pth"
    others = [
        densekit.load_model(weights),
        densekit.load_model(str(run_folder / "config.yaml"), weights),
        densekit.load_model(config, str(weights), device="cpu"),
    ]
    for other in others:
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())
    assert str(weights) != config.MODEL.WEIGHTS  # the caller's is left alone


def test_sources_that_are_none(tmp_path, run_folder):
    with pytest.raises(FileNotFoundError, match="in the folder"):
        densekit.load_model(tmp_path)
    shutil.copy(run_folder / "model_final.pth", tmp_path / "a.pth")
    with pytest.raises(FileNotFoundError, match="give the configuration"):
        densekit.load_model(tmp_path / "a.pth")
    with pytest.raises(
        FileNotFoundError, match=r"nearest that densekit has: carafe/mask_rcnn_R_50_FPN_carafe_1x\.yaml"
    ):
        densekit.load_model("carafe/mask_rcnn_R_50_FPN_carafe_1.yaml")
    shutil.copy(run_folder / "config.yaml", tmp_path / "config.yaml")
    with pytest.raises(FileNotFoundError, match="has no weights"):
        densekit.load_model(tmp_path)
    with pytest.raises(ValueError, match="predicts noise"):
        densekit.Predictor(tmp_path / "config.yaml")
    assert densekit.Predictor(tmp_path / "config.yaml", "").cfg.MODEL.WEIGHTS == ""


def test_a_model_sees_what_an_evaluation_shows_it(run_folder, cells, picture):
    predictor = densekit.Predictor(run_folder)
    densekit.register_dataset("cells_val", "coco", json=str(cells / "val.json"), images=str(cells / "val"))
    records = {record["file_name"]: record for (record,) in Trainer.build_test_loader(predictor.cfg, "cells_val")}
    expected = records[str(picture)]
    image = Image.open(picture)
    for one in (picture, str(picture), image, cv2.imread(str(picture))):
        given = predictor.inputs(one)
        assert torch.equal(given["image"], expected["image"])
        assert (given["height"], given["width"]) == (expected["height"], expected["width"]) == image.size[::-1]
    rgb = densekit.Predictor(run_folder, array_format="RGB")
    assert torch.equal(rgb.inputs(np.asarray(image))["image"], expected["image"])


def test_one_a_list_and_an_iterator(run_folder, cells, picture):
    predictor = densekit.Predictor(run_folder)
    paths = sorted((cells / "val").iterdir())
    one = predictor(picture)
    assert len(one["instances"]) and one["instances"].image_size == (64, 80)
    listed = predictor(paths)
    assert isinstance(listed, list) and len(listed) == len(paths) and same(listed[0], one)
    taken = []
    stream = predictor(path for path in paths if taken.append(path) is None)
    assert not taken and same(next(stream), one) and taken == paths[:1]
    assert [same(a, b) for a, b in zip(stream, listed[1:])] == [True, True]


def test_batches_of_pictures_of_one_size_change_nothing_much(run_folder, cells):
    paths = sorted((cells / "val").iterdir())
    single, batched = densekit.Predictor(run_folder)(paths), densekit.Predictor(run_folder, batch_size=2)(paths)
    for a, b in zip(single, batched):
        torch.testing.assert_close(a["instances"].scores, b["instances"].scores, rtol=1e-4, atol=1e-5)


def test_predictions_are_those_of_the_evaluation(run_folder, cells):
    results = json.loads((run_folder / "inference" / "own_val" / "coco_instances_results.json").read_text())
    predictor = densekit.Predictor(run_folder)
    for image_id in {result["image_id"] for result in results}:
        found = predictor(cells / "val" / f"{image_id:012d}.jpg")["instances"]
        scores = sorted(result["score"] for result in results if result["image_id"] == image_id)
        assert np.allclose(sorted(found.scores.tolist()), scores, atol=1e-5)


def test_pictures_turned_by_the_camera_and_grey_ones(run_folder, tmp_path, picture):
    predictor = densekit.Predictor(run_folder)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(picture).save(tmp_path / "turned.png", exif=exif)
    by_path, by_image = (predictor.inputs(p) for p in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")))
    assert torch.equal(by_path["image"], by_image["image"]) and by_image["height"] == 80
    grey = np.full((40, 60), 77, np.uint8)
    assert (predictor.inputs(grey)["image"] == 77).all() and predictor.inputs(grey)["width"] == 60


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)])
def test_arrays_that_are_no_pictures(run_folder, array):
    with pytest.raises(ValueError, match="is no picture"):
        densekit.Predictor(run_folder)(array)


def test_class_names(run_folder):
    names = densekit.Predictor(run_folder).class_names
    assert names[0] == "person" and len(names) == 80


def test_evaluation_gives_the_numbers_of_the_training(run_folder, cells, tmp_path):
    at_the_end = json.loads((run_folder / "inference" / "results.json").read_text())
    again = densekit.evaluate(run_folder, output_dir=tmp_path / "again")
    assert again is not None
    assert again["bbox"]["AP"] == pytest.approx(at_the_end["own_val"]["bbox"]["AP"], abs=1e-9, nan_ok=True)
    assert (tmp_path / "again" / "inference" / "own_val").is_dir()
    densekit.register_dataset("cells_val", "coco", json=str(cells / "val.json"), images=str(cells / "val"))
    densekit.evaluate(run_folder / "model_final.pth", test="cells_val", output_dir=tmp_path / "again")
    assert (tmp_path / "again" / "inference" / "cells_val").is_dir()


def test_a_training_goes_on(cells, tmp_path):
    words = {"output_dir": tmp_path, "train_data": data(cells, "train")}
    densekit.train(str(cells / "tiny.yaml"), {"SOLVER.MAX_ITER": 2}, **words)
    densekit.train(load_config(str(cells / "tiny.yaml")), {"SOLVER.MAX_ITER": 3}, resume=True, **words)
    assert "2 of 3 iterations are done" in (tmp_path / "log.txt").read_text()
    with pytest.raises(ValueError, match="resume is 'sometimes'"):
        densekit.train(str(cells / "tiny.yaml"), resume="sometimes", **words)


def test_mistakes_are_errors_and_not_the_end_of_the_process(cells, tmp_path):
    with pytest.raises(ValueError, match=r"SOLVER\.MAX_ITER"):
        densekit.train(cells / "tiny.yaml", {"SOLVER.MAX_ITERS": 2}, output_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        entry = {"form": "coco", "json": "nowhere.json", "images": cells / "val"}
        densekit.train(cells / "tiny.yaml", output_dir=tmp_path, train_data=entry)


def test_an_interrupted_call_has_saved(cells, tmp_path, monkeypatch):
    ordinary = Trainer.run_step

    def interrupted(self):
        ordinary(self)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "run_step", interrupted)
    with pytest.raises(KeyboardInterrupt, match="go on with resume=True"):
        densekit.train(cells / "tiny.yaml", output_dir=tmp_path, train_data=data(cells, "train"))
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000000.pth"


@pytest.fixture
def quickstart(cells, run_folder, tmp_path, monkeypatch) -> Path:
    """The files that the examples name, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells").mkdir()
    shutil.copytree(cells / "train", tmp_path / "cells" / "images")
    for split in ("train", "val"):
        shutil.copy(cells / "train.json", tmp_path / "cells" / f"{split}.json")
    picture = Image.open(sorted((cells / "train").iterdir())[0])
    picture.save(tmp_path / "cells" / "images" / "a.png")
    picture.save(tmp_path / "street.png")
    shutil.copytree(run_folder, tmp_path / "output" / "demo")
    return tmp_path


def test_the_lines_of_the_readme_predict(quickstart, capsys):
    blocks = [block for block in python_blocks(README) if "Predictor" in block]
    for block in blocks:
        assert len(block.splitlines()) <= 6
        exec(compile(block, "README.md", "exec"), {})
    assert len(blocks) <= 1 and (
        not blocks or re.search(r"^\w[\w ]* \d\.\d\d \[", capsys.readouterr().out, re.MULTILINE)
    )


def test_the_examples_of_the_docs_run(quickstart, capsys):
    names: dict = {}
    for block in python_blocks(DOCS):
        small = block.replace("300", "2")
        exec(compile(small, "docs/python_api.md", "exec"), names)
    assert re.search(r"^\d+$", capsys.readouterr().out, re.MULTILINE)
    assert names["cfg"].MODEL.FPN.UPSAMPLER == "carafe" and Path(names["path"]).is_file()
