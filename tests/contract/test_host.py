"""The choice of the host."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = importlib.util.find_spec("detectron2") is not None


def choose(host: str | None, folder: Path | None = None) -> subprocess.CompletedProcess:
    env = {key: value for key, value in os.environ.items() if key != "DENSEKIT_HOST"}
    env["PYTHONPATH"] = os.pathsep.join([*([str(folder)] if folder else []), str(ROOT)])
    if host is not None:
        env["DENSEKIT_HOST"] = host
    code = "from densekit.d2 import HOST; print(HOST)"
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


def test_builtin_on_request():
    assert choose("builtin").stdout.strip() == "builtin"


def test_auto_takes_detectron2_where_it_is_installed():
    assert choose(None).stdout.strip() == ("detectron2" if INSTALLED else "builtin")


def test_unknown_choice_is_refused():
    run = choose("dectron2")
    assert run.returncode != 0 and "auto, detectron2, builtin" in run.stderr


@pytest.mark.skipif(INSTALLED, reason="Detectron2 is installed here")
def test_missing_detectron2_is_refused_when_asked_for():
    run = choose("detectron2")
    assert run.returncode != 0 and "DENSEKIT_HOST=builtin" in run.stderr


@pytest.mark.parametrize("host", [None, "detectron2"])
def test_broken_detectron2_never_falls_back(tmp_path, host):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("")
    (tmp_path / "detectron2" / "_C.py").write_text("raise ImportError('undefined symbol: planted')")
    run = choose(host, tmp_path)
    assert run.returncode != 0
    assert "planted" in run.stderr and "DENSEKIT_HOST=builtin" in run.stderr
