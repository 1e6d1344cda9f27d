"""A project is a plain Detectron2 project once ``densekit.d2`` reads ``detectron2`` in its text.

What it shares with others (``densekit.modeling`` and so on) runs on the host, which is Detectron2 then.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("detectron2")
ROOT = Path(__file__).resolve().parents[2]


def test_projects_are_plain_detectron2_projects(tmp_path):
    shutil.copytree(ROOT / "projects", tmp_path / "plain", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (tmp_path / "plain").rglob("*.py"):
        path.write_text(path.read_text().replace("densekit.d2", "detectron2"))
    code = (
        "import sys; from detectron2.config import get_cfg; from plain import PROJECTS, add_all_configs;"
        "cfg = get_cfg(); add_all_configs(cfg); print(len(PROJECTS));"
        "sys.exit(any(name.startswith('densekit.runtime') for name in sys.modules))"
    )
    env = {**os.environ, "DENSEKIT_HOST": "detectron2"}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.splitlines()[-1]) >= 1


WITHOUT_PANOPTICAPI = """
import sys, types
from densekit.config import load_config
load_config("")
# Panoptic-DeepLab asks for a package that is on no index; what it would be used for is not reached here.
for name in ("panopticapi", "panopticapi.utils"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["panopticapi.utils"].rgb2id = None
import detectron2.projects.deeplab, detectron2.projects.panoptic_deeplab, detectron2.projects.point_rend
"""


def test_no_name_is_taken_twice_beside_detectron2s_own_projects():
    """A registry refuses a second entry under a name: whoever is imported last would fail."""
    env = {**os.environ, "DENSEKIT_HOST": "detectron2"}
    code = [sys.executable, "-c", WITHOUT_PANOPTICAPI]
    run = subprocess.run(code, cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
