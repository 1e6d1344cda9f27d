"""The examples run as they stand, one after the other in one folder, with few steps."""

import subprocess
import sys

import pytest

from docs.tools.results import ROOT

EXAMPLES = ROOT / "examples"
# Later ones use the run of the first.
ORDER = (
    "train_on_own_data",
    "predict_on_a_picture",
    "read_a_report",
    "add_a_backbone",
)
SAYS = {
    "train_on_own_data": "AP of square",
    "predict_on_a_picture": "pictures",
    "read_a_report": "report.html",
    "add_a_backbone": "p6 (1, ",
}


def test_every_example_is_run_here_and_listed():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(ORDER)
    page = (ROOT / "docs" / "examples.md").read_text()
    assert all(f"examples/{name}.py" in page for name in ORDER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize("name", ORDER)
def test_an_example(name, folder):
    text = (EXAMPLES / f"{name}.py").read_text()
    script = folder / f"{name}.py"
    script.write_text(text.replace("STEPS = 300", "STEPS = 3"))
    done = subprocess.run([sys.executable, script.name], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert SAYS[name] in done.stdout, done.stdout
    assert "error:" not in done.stdout + done.stderr
