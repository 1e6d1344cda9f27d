"""A system is three folders and one line: a copy of the template under a new name does what every system does."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import densekit.data.builtin  # noqa: F401 - the classes of COCO
from tests.engine.conftest import write_coco

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("projects", "configs", "tests/projects")
TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "16",
    "MODEL.RESNETS.WIDTH_PER_GROUP": "4",
    "MODEL.FPN.OUT_CHANNELS": "8",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": "20",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "10",
    "MODEL.NOVELTY.HIDDEN_DIM": "16",
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": "64",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.MAX_ITER": "1",
    "DATALOADER.NUM_WORKERS": "0",
    "OUTPUT_DIR": "out",
}
WORDS = ["--config-file", "configs/novelty/faster_rcnn_R_50_FPN_novelty.yaml"]
OVERRIDES = [word for pair in TINY.items() for word in pair]


def renamed(text: str) -> str:
    text = re.sub(r"(?<![A-Za-z0-9])_template\b", "novelty", text)
    for old, new in (("template", "novelty"), ("Template", "Novelty"), ("TEMPLATE", "NOVELTY")):
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The tree with a system more, and pictures to train it on."""
    tree = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("densekit", "projects", "configs", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignore)
    for name in ("train_net.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    (tree / "densekit" / "projects").symlink_to(tree / "projects")  # as an installation maps it
    for place in PLACES:
        for source in (ROOT / place / "_template").rglob("*"):
            if source.is_file() and source.suffix != ".pyc":
                target = tree / place / renamed(str(source.relative_to(ROOT / place)))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(renamed(source.read_text()))
    listed = tree / "projects" / "__init__.py"
    listed.write_text(listed.read_text().replace('    "_template",\n', '    "_template",\n    "novelty",\n'))
    for split, count in (("train", 4), ("val", 2)):
        write_coco(tree / "datasets", split, count)
    return tree


def run(tree: Path, *words: str) -> str:
    env = {key: value for key, value in os.environ.items() if key not in ("DETECTRON2_DATASETS",)}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tree), os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, *words], cwd=tree, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_it_trains_evaluates_rehearses_converts_and_predicts(tree):
    said = run(tree, "train_net.py", *WORDS, "--dry-run", *OVERRIDES)
    assert "roi_heads" in said and "nothing was written" in said
    run(tree, "train_net.py", *WORDS, *OVERRIDES)
    assert (tree / "out" / "model_final.pth").is_file() and "bbox/AP" in (tree / "out" / "metrics.json").read_text()
    said = run(tree, "train_net.py", *WORDS, "--eval-only", *OVERRIDES, "MODEL.WEIGHTS", "out/model_final.pth")
    assert "All " in said and "entries of the model were loaded" in said
    run(tree, "-m", "densekit", "convert", "out/model_final.pth", "novelty.safetensors")
    assert (tree / "novelty.safetensors").is_file()
    run(tree, "-m", "densekit", "predict", "out", "--input", "datasets/coco/val2017", "--output", "predicted")
    assert len((tree / "predicted" / "predictions.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_its_tests_and_the_contract_tests_of_its_configs_pass(tree):
    run(tree, "-m", "pytest", "tests/projects/novelty")
    files = (
        "tests/contract/test_configs.py",
        "tests/contract/test_projects.py",
        "tests/contract/test_dry_run_families.py",
    )
    run(tree, "-m", "pytest", *files, "-k", "novelty")
