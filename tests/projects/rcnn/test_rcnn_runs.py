"""Whole runs of R-CNN: stages in order, ended and resumed, one checkpoint that evaluates and predicts."""

import json
import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import torch
import yaml

from densekit.cli import main
from densekit.cli.arguments import parse_arguments
from densekit.cli.train import run_options
from densekit.d2 import HOST
from densekit.d2.data import DatasetCatalog
from densekit.data import register_coco_instances
from densekit.engine import run
from densekit.engine.preemption import REQUEUE, STOP
from densekit.projects.rcnn import region_svm, stages
from densekit.projects.rcnn.training_regions import TrainingRegions
from tests.contract.shrinking import ROOT
from tests.engine.conftest import write_coco
from tests.tolerances import close

pytestmark = pytest.mark.skipif(find_spec("sklearn") is None, reason="needs scikit-learn")
RESULTS = ("svm_weight", "svm_bias", "feature_scale", "ridge_weight", "ridge_bias", "has_svms")


def write_proposals(path, name):
    """Boxes moved from the object, around it, and anywhere."""
    random, found = np.random.default_rng(0), {"ids": [], "boxes": [], "objectness_logits": [], "bbox_mode": 0}
    for record in DatasetCatalog.get(name):
        x, y, w, h = record["annotations"][0]["bbox"]
        near = [[x + dx, y + dy, x + dx + w, y + dy + h] for dx, dy in random.integers(-4, 5, (6, 2))]
        corner = random.integers(0, [50, 40], (10, 2))
        anywhere = np.concatenate([corner, corner + random.integers(8, 24, (10, 2))], axis=1)
        found["ids"].append(record["image_id"])
        boxes = np.concatenate([near, anywhere]).astype(np.float32)
        found["boxes"].append(np.clip(boxes, 0, [80, 64, 80, 64]).astype(np.float32))
        found["objectness_logits"].append(-np.arange(len(boxes), dtype=np.float32))
    path.write_bytes(pickle.dumps(found))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Files of pictures, proposals and a configuration."""
    root = tmp_path_factory.mktemp("rcnn")
    for split, count in (("train", 6), ("val", 4)):
        write_coco(root, split, count)
        annotations = root / "coco" / "annotations" / f"instances_{split}2017.json"
        register_coco_instances(f"tiny_{split}", {}, annotations, root / "coco" / f"{split}2017")
        write_proposals(root / f"{split}.pkl", f"tiny_{split}")
    config = {
        "_BASE_": [str(ROOT / "configs/_base_/models/rcnn_tiny.yaml"), str(ROOT / "configs/rcnn/_base_/rcnn.yaml")],
        "MODEL": {
            "BACKBONE": {"NAME": "build_resnet_backbone"},
            "RESNETS": {"OUT_FEATURES": ["res5"], "NORM": "FrozenBN"},
            "RCNN": {"CROP_SIZE": 64, "CONTEXT": 5, "RIDGE_PENALTY": 10.0, "SVM": {"C": 0.1, "REFIT_AFTER": 20}},
            "ROI_HEADS": {"BATCH_SIZE_PER_IMAGE": 8},
        },
        "DATASETS": {
            "TRAIN": ["tiny_train"],
            "TEST": ["tiny_val"],
            "PROPOSAL_FILES_TRAIN": [str(root / "train.pkl")],
            "PROPOSAL_FILES_TEST": [str(root / "val.pkl")],
        },
        "DATALOADER": {"NUM_WORKERS": 0},
        "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 3, "CHECKPOINT_PERIOD": 2, "BASE_LR": 0.0001, "STEPS": []},
        "SEED": 3,
    }
    (root / "rcnn.yaml").write_text(yaml.safe_dump(config))
    return root


def options(data, output, *words, flags=()):
    return run_options(
        parse_arguments(["--config-file", str(data / "rcnn.yaml"), *flags, "OUTPUT_DIR", str(output), *map(str, words)])
    )


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "out"
    return output, run(options(data, output))


def test_the_checkpoint_holds_what_the_stages_learned(data, trained):
    output, results = trained
    model = torch.load(output / "model_final.pth", weights_only=True)["model"]
    assert model["has_svms"] and model["svm_weight"][0].any() and model["ridge_weight"][0].any()
    assert not model["svm_weight"][1:].any() and not model["ridge_weight"][1:].any()  # classes without an object
    assert not torch.load(output / "model_0000001.pth", weights_only=True)["model"]["has_svms"]
    assert not (output / "region_features").exists()
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert all(any(f"seconds/{stage}" in line for line in lines) for stage in ("features", "svms", "box_corrections"))
    assert results["bbox"]["AP50"] > 50  # a red rectangle on grey needs no learned features
    again = run(options(data, output, "MODEL.WEIGHTS", output / "model_final.pth", flags=["--eval-only"]))
    assert again["bbox"]["AP"] == pytest.approx(results["bbox"]["AP"])


def test_a_run_that_was_ended_in_a_stage_goes_on_there(data, trained, tmp_path, monkeypatch):
    made, ordinary = [], TrainingRegions.__getitem__

    def counted(self, index):
        if len(made) == 4 and not ended:
            ended.append(index)
            raise KeyboardInterrupt
        made.append(index)
        return ordinary(self, index)

    ended, output = [], tmp_path / "out"
    monkeypatch.setattr(TrainingRegions, "__getitem__", counted)
    with pytest.raises(KeyboardInterrupt):
        run(options(data, output))
    assert not (output / "model_final.pth").exists()

    # Then in the corrections, after the SVMs are there.
    solve = stages.RegionStages._learn_corrections
    monkeypatch.setattr(stages.RegionStages, "_learn_corrections", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(options(data, output, flags=["--resume"]))
    assert sorted(made) == list(range(6))  # each picture's features once, in both runs together
    monkeypatch.setattr(stages.RegionStages, "_learn_corrections", solve)
    monkeypatch.setattr(region_svm, "fit_svm", None)  # would fail if it were called
    run(options(data, output, flags=["--resume"]))
    assert sorted(made) == list(range(6))
    one, other = (torch.load(folder / "model_final.pth", weights_only=True)["model"] for folder in (trained[0], output))
    for name in RESULTS:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("pass_of", ["features", "SVMs", "box corrections"])
def test_a_signal_ends_a_stage_at_the_next_picture(data, trained, tmp_path, monkeypatch, pass_of):
    visited, ordinary = [], stages.tqdm

    def sending(pictures, desc, **kwargs):
        for number, picture in enumerate(ordinary(pictures, desc=desc, **kwargs)):
            if desc == pass_of:
                visited.append(picture)
                if number == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
            yield picture

    with monkeypatch.context() as patched, pytest.raises(SystemExit) as end:
        patched.setattr(stages, "tqdm", sending)
        run(options(data, tmp_path / "out"))
    assert end.value.code == REQUEUE and visited == [0, 1, 2]
    assert "The stages of R-CNN stop here" in (tmp_path / "out" / "log.txt").read_text()
    run(options(data, tmp_path / "out", flags=["--resume"]))
    one, other = (
        torch.load(folder / "model_final.pth", weights_only=True)["model"] for folder in (trained[0], tmp_path / "out")
    )
    for name in RESULTS:
        assert torch.equal(one[name], other[name]), name


def test_features_beyond_the_store_are_made_again_and_give_the_same(data, trained, tmp_path):
    run(options(data, tmp_path / "out", "MODEL.RCNN.STORE_GIB", 2e-5))
    one, other = (
        torch.load(folder / "model_final.pth", weights_only=True)["model"] for folder in (trained[0], tmp_path / "out")
    )
    for name in RESULTS:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="needs opencv-contrib")
def test_it_predicts_on_pictures_alone(data, trained, tmp_path):
    words = ["--weights", str(trained[0] / "model_final.pth"), "--input", str(data / "coco" / "val2017")]
    more = ["MODEL.RCNN.SEARCH.LEAST", "5", "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST", "60", "MODEL.DEVICE", "cpu"]
    asked = ["predict", "--config-file", str(data / "rcnn.yaml"), *words, "--output", str(tmp_path / "found"), *more]
    assert main(asked) == 0
    found = json.loads((tmp_path / "found" / "coco_instances_results.json").read_text())
    assert found and max(entry["score"] for entry in found) > 0.5


def test_a_process_that_waits_for_the_svms_obeys_a_signal():
    class Never:
        def is_completed(self):
            os.kill(os.getpid(), signal.SIGTERM)
            return False

    with STOP, pytest.raises(SystemExit) as end:
        stages._wait(Never())
    assert end.value.code == REQUEUE


@pytest.fixture
def command(data, tmp_path):
    """Starts a training in two processes of its own."""
    sets = "".join(
        f"tiny_{split}: {{form: coco, json: coco/annotations/instances_{split}2017.json, images: coco/{split}2017}}\n"
        for split in ("train", "val")
    )
    (data / "own.yaml").write_text(sets)
    words = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(data / "rcnn.yaml"), "--num-gpus", "2"]
    words += ["--datasets", str(data / "own.yaml"), "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "out")]
    started = []

    def start():
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "DENSEKIT_HOST": HOST}
        with (tmp_path / "console.txt").open("w") as console:
            started.append(
                subprocess.Popen(words, env=environment, stdout=console, stderr=console, start_new_session=True)
            )
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_two_processes_learn_what_one_does(data, command, tmp_path):
    assert command().wait(280) == 0, (tmp_path / "console.txt").read_text()
    final = tmp_path / "out" / "model_final.pth"
    model = torch.load(final, weights_only=True)["model"]
    assert model["has_svms"] and model["svm_weight"][0].any() and model["ridge_weight"][0].any()
    assert not (tmp_path / "out" / "region_features").exists()
    # Each process has predicted half of the pictures.
    found = json.loads((tmp_path / "out" / "inference" / "results.json").read_text())["tiny_val"]["bbox"]["AP"]
    alone = run(options(data, tmp_path / "out", "MODEL.WEIGHTS", final, flags=["--eval-only"]))
    assert alone["bbox"]["AP"] == pytest.approx(found)
    # One process with the weights of the network.
    still = ["MODEL.WEIGHTS", final, "SOLVER.MAX_ITER", 1, "SOLVER.BASE_LR", 0.0, "DATASETS.TEST", "()"]
    run(options(data, tmp_path / "one", *still))
    one = torch.load(tmp_path / "one" / "model_final.pth", weights_only=True)["model"]
    for name in RESULTS:
        torch.testing.assert_close(one[name], model[name], **close(torch.float32))


@pytest.mark.parametrize(
    "words, message",
    [
        (["MODEL_EMA.ENABLED", True], "MODEL_EMA.ENABLED must be False"),
        (["MODEL.RCNN.CONTEXT", 32], "leaves nothing"),
        (["MODEL.RCNN.GRID", 0], "MODEL.RCNN.GRID is 0"),
        (["MODEL.RCNN.RIDGE_PENALTY", 0.0], "MODEL.RCNN.RIDGE_PENALTY is 0"),
    ],
)
def test_settings_that_make_no_sense_end_in_one_line(data, tmp_path, words, message, capsys):
    with pytest.raises(SystemExit) as end:
        run(options(data, tmp_path / "out", *words))
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_the_files_of_the_other_split_are_refused(data, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(options(data, tmp_path / "out", "DATASETS.PROPOSAL_FILES_TRAIN", f"('{data / 'val.pkl'}',)"))
    assert "has no proposals for image id" in capsys.readouterr().err


def test_a_missing_library_is_told_before_the_training(data, tmp_path, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(SystemExit):
        run(options(data, tmp_path / "out"))
    assert "pip install 'densekit[rcnn]'" in capsys.readouterr().err
