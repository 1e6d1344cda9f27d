"""``densekit demo``: which systems it knows, and a run from the scenes to the report page."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from densekit.cli import main
from densekit.cli.demo import demo_configs
from densekit.config_files import find_config
from densekit.projects import PROJECTS
from densekit.streets import write_streets

SMALL = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "1", "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu"]
SMALL += ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
SMALL += ["MODEL.RPN.POST_NMS_TOPK_TEST", "20", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "50"]


def test_every_system_named_has_its_configuration():
    configs = demo_configs()
    assert configs["mask_rcnn"] == "quickstart/mask_rcnn_R_18_FPN_streets.yaml"
    assert all(Path(find_config(name)).is_file() for name in configs.values())
    folders = Path(find_config(configs["mask_rcnn"])).parents[1]
    assert {name for name in PROJECTS if list((folders / name).glob("*_streets*.yaml"))} <= set(configs)


def test_an_unknown_system_is_an_error_with_the_list(capsys):
    assert main(["demo", "nothing"]) == 2
    shown = capsys.readouterr()
    assert "'nothing'" in shown.err and "mask_rcnn" in shown.out


def test_the_list_alone_runs_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--list"]) == 0
    assert re.search(r"^mask_rcnn +quickstart/", capsys.readouterr().out, re.MULTILINE)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_demo_ends_in_a_report_and_a_fault_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_streets(tmp_path / "streets", train=2, val=2, width=128, height=64)
    command = [sys.executable, "-m", "densekit", "demo", "--output", str(tmp_path / "run")]
    done = subprocess.run([*command, "mask_rcnn", *SMALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "run" / "demo.txt").read_text()
    page = next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("report"))
    assert Path(unquote(urlsplit(page).path)).is_file()
    assert len(done.stdout.splitlines()) < 12 and "evaluating" in done.stderr
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["SOLVER"]["MAX_ITER"] == 2
    bad = subprocess.run([*command, "mask_rcnn", "SOLVER.MAX_ITR", "2"], capture_output=True, text=True)
    assert bad.returncode == 2 and "error:" in bad.stderr and "MAX_ITR" in bad.stderr
    assert "Traceback" not in bad.stderr
