"""DETR beside the authors' Detectron2 wrapper, which registers its model under the name that its YAML files hold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("detectron2")
ROOT = Path(__file__).resolve().parents[3]
WRAPPER = """
from detectron2.modeling import META_ARCH_REGISTRY as theirs
@theirs.register()
class Detr: pass
"""


@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("host", ["builtin", "detectron2"])
def test_both_can_be_imported_in_any_order(first, host, tmp_path):
    (tmp_path / "wrapper.yaml").write_text('MODEL:\n  META_ARCHITECTURE: "Detr"\n  DEVICE: meta\n')
    ours = "from densekit.config import load_config\nimport densekit.projects.detr"
    code = "\n".join(
        [
            *((ours, WRAPPER) if first == "ours" else (WRAPPER, ours)),
            "from densekit.d2.modeling import build_model",
            f"cfg = load_config({str(tmp_path / 'wrapper.yaml')!r})",
            "assert cfg.INPUT.MAPPER == 'DetrDatasetMapper'",
            "assert theirs.get('Detr') is Detr",
            "print(type(build_model(cfg)).__name__)",
        ]
    )
    env = {**os.environ, "DENSEKIT_HOST": host}
    run = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == "DetrDetector"
