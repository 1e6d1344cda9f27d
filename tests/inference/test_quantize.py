"""The command that quantises: its files, what it measures, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import densekit
from densekit.cli import main
from densekit.config import load_config
from densekit.d2.data import DatasetCatalog
from densekit.deploy import targets
from densekit.inference import quantize as quantising
from densekit.inference.quantize import Quantising, headlines, quantize

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)

SIZES = ["INPUT.MIN_SIZE_TEST", 160, "INPUT.MAX_SIZE_TEST", 300, "DATASETS.TEST", ("noise",)]


class Segmenter(nn.Module):
    """A graph of kind "sem_seg" with 5 classes and 12 layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.body = nn.ModuleList(nn.Conv2d(8, 8, 3, 1, 1) for _ in range(10))
        self.predictor = nn.Conv2d(8, 5, 1)

    def forward(self, image):
        x = torch.relu(self.stem((image[None] - 128) / 64))
        for layer in self.body:
            x = x + torch.relu(layer(x))
        return (nn.functional.interpolate(self.predictor(x), scale_factor=2.0, mode="bilinear")[0],)


def records(folder):
    return [{"file_name": str(path), "image_id": number} for number, path in enumerate(sorted(folder.glob("*.png")))]


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A data set of blocks of colours without annotations."""
    folder, random = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for number in range(4):
        blocks = random.integers(0, 255, (8, 9 + number, 3), dtype=np.uint8)
        Image.fromarray(np.kron(blocks, np.ones((20, 20, 1), np.uint8))).save(folder / f"{number}.png")
    DatasetCatalog.register("noise", lambda: records(folder))
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A file as densekit export writes it."""
    place = {"multiple": 32, "value": [0.0, 0.0, 0.0]}
    about = {"kind": "sem_seg", "inputs": ["image"], "outputs": ["sem_seg"], "settings": {}, "classes": []}
    about |= {"labels": [{"id": 0, "name": "tree"}], "config": load_config("", SIZES).dump()}
    about["input"] = {"placement": place, "least_side": 160, "shorter_side": 160}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        graph = Segmenter().eval()
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    targets.write(path, targets.made(graph, "onnx", torch.rand(3, 160, 224), (160, 224), about))
    return path


@pytest.fixture(scope="module")
def done(exported, noise):
    """The folder that the command has filled."""
    words = ["--calibration", "noise", "--images", "3", "--keep-float", "2", "--to", "onnx", "--skip-evaluation"]
    assert main(["quantize", str(exported), *words]) == 0
    return exported.parent / "quantised"


def test_the_file_stands_in_the_models_place(done, exported, noise):
    coarse, exact = (densekit.load_model(path) for path in (done / "model.int8.onnx", exported))
    assert coarse.about == exact.about
    picture = torch.from_numpy(np.asarray(Image.open(noise / "3.png"))[:, :, ::-1].copy()).permute(2, 0, 1)
    ours, theirs = (model([{"image": picture}])[0]["sem_seg"] for model in (coarse, exact))
    assert 0 < (ours - theirs).norm() < 0.1 * theirs.norm()
    assert (ours.argmax(0) == theirs.argmax(0)).float().mean() > 0.9


def test_the_report_names_each_layer(done):
    report = json.loads((done / "quantisation.json").read_text())
    names = [layer["layer"] for layer in report["layers"]]
    assert report["images"] == 3 and len(set(names)) == len(names) == 12
    worst = sorted(report["layers"], key=lambda layer: layer["snr"])[:2]
    assert [layer["layer"] for layer in worst] == report["float_layers"]
    assert set(report["milliseconds"]) == {"float ONNX", "int8 ONNX"} and min(report["milliseconds"].values()) > 0
    text = (done / "quantisation.txt").read_text()
    assert all(name in text for name in names) and text.count(" float\n") >= 1
    assert Image.open(done / "sensitivity.png").size[0] > 500


def test_another_method_needs_no_new_calibration(done, exported, noise, tmp_path, monkeypatch):
    (tmp_path / "calibration.npz").write_bytes((done / "calibration.npz").read_bytes())
    seen, feeds = [], quantising._Pictures.feeds

    def counted(pictures, first, end, task):
        seen.append((task, min(end, len(pictures)) - first))
        return feeds(pictures, first, end, task)

    monkeypatch.setattr(quantising._Pictures, "feeds", counted)
    monkeypatch.setattr(quantising, "perform", lambda options: {"sem_seg": {"mIoU": 40.0, "options": options}})
    monkeypatch.setattr(quantising.json, "dump", lambda content, file, indent: file.write(str(content)))
    choices = Quantising("noise", images=3, method="max", targets=["onnx"])
    report = quantize(exported, tmp_path, choices)
    assert seen[0] == ("Calibrating", 0)
    options = report["results"]["int8 ONNX"]["sem_seg"]["options"]
    assert Path(options.cfg.MODEL.EXPORTED) == tmp_path / "model.int8.onnx" and options.eval_only
    assert report["float_layers"] == [] and report["method"] == "max"


def test_a_run_is_exported_first(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(quantising, "export", lambda *words, **more: given.append((words, more)))
    path = quantising._float_file("output/cells", tmp_path, "other.pth", ["KEY", 1])
    assert path == tmp_path / "model.onnx"
    assert given == [(("output/cells", "onnx", path), {"weights": "other.pth", "opts": ["KEY", 1]})]


def test_headlines_are_the_first_numbers():
    one = {"bbox": {"AP": 41.0, "AP50": 60.0}, "segm": {"AP": 37.5}}
    assert dict(headlines(one)) == {"bbox AP": 41.0, "segm AP": 37.5}
    assert dict(headlines({"cells_val": one})) == {"cells_val bbox AP": 41.0, "cells_val segm AP": 37.5}
    assert dict(headlines({})) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--calibration", "nothing", "--to", "onnx"], "nothing"),
        (["--calibration", "noise", "--images", "0"], "--images 0: at least one"),
        (["--calibration", "noise", "--keep-float", "-1"], "--keep-float -1"),
        (["--calibration", "noise", "--keep-float", "999", "--to", "onnx"], "--keep-float 999: the model has"),
        (["--calibration", "noise", "MODEL.WEIGHTS"], "come in pairs"),
    ],
)
def test_mistakes_are_named(exported, noise, words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["quantize", str(exported), *words])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_other_exported_files_are_refused(exported, tmp_path):
    content = targets.read(exported)
    pytest.importorskip("openvino")
    about, _ = targets.opened(content, "onnx")
    targets.write(tmp_path / "model.xml", targets.openvino_of(content[".onnx"], json.dumps(about)))
    with pytest.raises(ValueError, match=r"only \.onnx can be quantised"):
        quantize(tmp_path / "model.xml", tmp_path / "out", Quantising("noise"))


def test_a_missing_package_is_named(exported, monkeypatch):
    def missing(package):
        raise densekit.deploy.targets.MissingPackageError(f"These files need {package}: pip install 'densekit[export]'")

    monkeypatch.setattr(quantising, "required", missing)
    with pytest.raises(ImportError, match="need onnx: pip install"):
        quantize(exported, exported.parent, Quantising("noise"))
