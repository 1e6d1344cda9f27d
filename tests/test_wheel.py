"""The wheel alone, installed beside the packages it needs: it trains, evaluates and predicts from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import densekit.data.builtin  # noqa: F401 - write_coco takes the names of COCO's classes
from densekit.d2 import HOST
from tests.engine.conftest import write_coco

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("densekit", "projects", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")
SMALL = ["DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
SMALL += ["INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "0"]


def call(words: list, folder: Path, **environment: str) -> str:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, env=env | environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """The folder with ``python`` and ``densekit`` of a fresh environment with the wheel in it."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:  # a copy, for a build leaves folders behind
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    build = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
    call([sys.executable, "-c", build, built], source)
    (wheel,) = built.glob("*.whl")
    place = tmp_path_factory.mktemp("fresh")
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    (site,) = place.glob("lib/python*/site-packages")
    call(
        [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel], built
    )
    # The packages that the wheel needs; only plain folders count there, so no editable densekit.
    others = {sysconfig.get_paths()["purelib"], *(path for path in sys.path if path.endswith("site-packages"))}
    (site / "others.pth").write_text("".join(f"{path}\n" for path in sorted(others)))
    return place / "bin"


@pytest.mark.slow
def test_the_wheel_trains_evaluates_and_predicts_from_an_empty_folder(programs, tmp_path):
    data, empty = tmp_path / "data", tmp_path / "empty"
    empty.mkdir()
    for split, count in (("train", 4), ("val", 2)):
        write_coco(data, split, count)
    host = {"DENSEKIT_HOST": HOST, "OMP_NUM_THREADS": "1"}
    where = call([programs / "python", "-c", "import densekit; print(densekit.__file__)"], empty).strip()
    assert where.startswith(str(programs.parent)) and call([programs / "densekit", "configs", "carafe"], empty)
    entries = [
        f"form: coco, json: {data}/coco/annotations/instances_{split}2017.json, images: {data}/coco/{split}2017"
        for split in ("train", "val")
    ]
    words = ["--config-file", "_base_/models/rcnn_tiny.yaml", "--train-data", entries[0], "--val-data", entries[1]]
    call([programs / "densekit", "train", *words, *SMALL, "OUTPUT_DIR", "run"], empty, **host)
    assert json.loads((empty / "run" / "inference" / "results.json").read_text())["own_val"]["bbox"]
    evaluate = ["--eval-only", "--config-file", "run/config.yaml", "MODEL.WEIGHTS", "run/model_final.pth"]
    call([programs / "densekit", "train", *evaluate, "OUTPUT_DIR", "again"], empty, **host)
    assert (empty / "again" / "inference" / "own_val" / "coco_instances_results.json").is_file()
    pictures = data / "coco" / "val2017"
    call([programs / "densekit", "predict", "run", "--input", pictures, "--output", "found"], empty, **host)
    assert (empty / "found" / "coco_instances_results.json").is_file()
    program = "import densekit; print(len(densekit.Predictor('run')(paths)))"
    program = f"from pathlib import Path; paths = sorted(Path({str(pictures)!r}).iterdir()); {program}"
    assert call([programs / "python", "-c", program], empty, **host).splitlines()[-1] == "2"
