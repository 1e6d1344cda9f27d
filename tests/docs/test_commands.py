"""The commands of README and quickstart are typed as they stand, on a few small pictures and with two steps."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from docs.tools.results import ROOT

PAGES = ("README.md", "docs/quickstart.md")
ELSEWHERE = {  # what is tested by other means, and where
    "make demo": "tests/cli/test_demo.py",
    "make test": "this run of the tests",
}
FEW = ["SOLVER.MAX_ITER", "2", "SOLVER.WARMUP_ITERS", "1", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"]


def commands() -> list[str]:
    """Every command of a block of the shell, once, in the order of the pages; comments are left out."""
    found: dict[str, None] = {}
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = " ".join(line.partition(" #")[0].split())
                if command and not command.startswith("#"):
                    found[command] = None
    return list(found)


def test_the_pages_have_these_commands():
    kinds = {word for command in commands() for word in command.split()[:2]}
    assert {"train_net.py", "predict", "check", "report", "demo", "test"} <= kinds


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkout with own data: ``cells.yaml`` as the README has it, its pictures, and ``photos``."""
    root = tmp_path_factory.mktemp("newcomer")
    for name in ("configs", "projects", "densekit", "train_net.py"):
        (root / name).symlink_to(ROOT / name)
    (root / "cells.yaml").write_text(re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1])
    for name in ("annotations", "images", "photos"):
        (root / name).mkdir()
    random = np.random.default_rng(0)
    for split, numbers in (("train", range(1, 5)), ("val", range(5, 7))):
        images, annotations = [], []
        for number in numbers:
            pixels = random.integers(0, 99, (64, 80, 3), dtype=np.uint8)
            pixels[8:40, 10:50] = 250
            for place in ("images", "photos"):
                Image.fromarray(pixels).save(root / place / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 80, "height": 64})
            box = {"bbox": [10, 8, 40, 32], "area": 1280, "iscrowd": 0}
            annotations.append({"id": number, "image_id": number, "category_id": 1, **box})
        document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
        (root / "annotations" / f"{split}.json").write_text(json.dumps(document))
    return root


@pytest.mark.parametrize("command", [one for one in commands() if one not in ELSEWHERE])
def test_a_command(command, folder):
    words = shlex.split(command)
    assert words[0] in (".venv/bin/python", ".venv/bin/densekit"), f"{command}: who runs it?"
    program = [sys.executable, *(["-m", "densekit"] if words[0].endswith("densekit") else [])]
    more = FEW if "train_net.py" in words else []
    done = subprocess.run(
        [*program, *words[1:], *more],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}{done.stderr[-1500:]}"
