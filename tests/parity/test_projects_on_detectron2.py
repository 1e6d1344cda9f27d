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
