"""A system's name stands in its room, and elsewhere only with a reason that docs/architecture.md gives too."""

import re
import subprocess
from pathlib import Path

import pytest

from densekit.projects import PROJECTS

ROOT = Path(__file__).resolve().parents[2]
# Rooms may name each other's keys and registry names in recipes and tests; that none imports another is tested too.
FREE = (
    "projects/",
    "configs/",
    "tests/projects/",
    "benchmarks/",
    "docs/",
    "results/",
    "mkdocs.yml",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "tests/contract/test_one_room.py",
    "tests/contract/matrix.py",  # every backbone under every head, by the names of both
)
# Words of the field or of English besides: only as the name of a package or of a folder are they the system.
WORDS = ("inpainting", "pose", "rcnn")
EXCEPTIONS = {
    "carafe": (
        "densekit/ops/carafe/",  # the operator, its layer and its keys, which any pyramid or head may use
        "densekit/layers/",
        "densekit/modeling/",
        "tests/ops/test_carafe_operator.py",
        "tests/layers/test_upsample.py",
        "pyproject.toml",
        "tests/cli/test_configs_and_doctor.py",  # a shipped configuration as the user's example
        "tests/test_python_api.py",
        "tests/test_wheel.py",
    ),
    "deeplab": (
        "densekit/data/mapper.py",  # papers and projects of Detectron2 whose rules shared parts have
        "densekit/modeling/",
        "densekit/runtime/layers/blocks.py",
        "densekit/solver/schedules.py",
        "tests/modeling/",
        "tests/parity/",
    ),
    "detr": (
        "densekit/data/mapper.py",  # the paper whose transformer, matching and loss are shared parts
        "densekit/layers/transformer.py",
        "densekit/modeling/",
        "tests/cli/test_configs_and_doctor.py",
    ),
    "hrnet": ("densekit/layers/pixel_losses.py", "densekit/modeling/", "tests/modeling/"),
    "ocr": ("densekit/modeling/", "tests/modeling/"),
    "pointrend": ("densekit/layers/points.py", "densekit/modeling/", "tests/modeling/"),
    "mpvit": ("tests/modeling/",),
    "swin": (
        "densekit/data/mapper.py",
        "tests/engine/test_sharding.py",
        "tests/modeling/",
        "tests/weights/test_pixels.py",
    ),
    "upernet": ("tests/modeling/",),
}


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("the tree is no git repository")
    return [name for name in listed.stdout.splitlines() if not name.startswith(FREE)]


def test_a_system_is_named_in_its_room_only():
    wrong = []
    for name in tracked_files():
        try:
            text = f"{name}\n{(ROOT / name).read_text()}"
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        for system in PROJECTS:
            around = ("(?:projects|configs)[./]", r"\b") if system in WORDS else ("(?<![a-z])", "(?![a-z])")
            found = re.search(f"{around[0]}{system}{around[1]}", text, re.IGNORECASE)
            if system != "_template" and found and not name.startswith(EXCEPTIONS.get(system, ())):
                wrong.append(f"{name} names {system}")
    assert not wrong, "\n".join(wrong)


def test_every_exception_is_needed_and_documented():
    page, files = (ROOT / "docs/architecture.md").read_text(), tracked_files()
    for system, places in EXCEPTIONS.items():
        for place in places:
            texts = [f"{name}\n{(ROOT / name).read_text()}".lower() for name in files if name.startswith(place)]
            assert any(system in text for text in texts), f"{place} no longer names {system}"
            assert place.rstrip("/") in page, f"docs/architecture.md does not give the reason for {place}"
