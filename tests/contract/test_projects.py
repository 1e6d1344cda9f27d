"""Every project is complete: listed, documented, configured, and a plain Detectron2 project under another name."""

import re
from pathlib import Path

import pytest

from densekit.d2.config import get_cfg
from densekit.projects import PROJECTS, add_all_configs

ROOT = Path(__file__).resolve().parents[2]


def test_every_folder_is_listed():
    folders = {path.parent.name for path in (ROOT / "projects").glob("*/__init__.py")}
    assert folders == set(PROJECTS)


@pytest.mark.parametrize("name", PROJECTS)
def test_project_is_documented(name):
    readme = (ROOT / "projects" / name / "README.md").read_text()
    assert "**Paper**" in readme
    assert "python train_net.py --config-file configs/" in readme
    assert re.search(r"^## Results\n(<!-- .* -->\n\n)?\|", readme, re.MULTILINE), "no table of results"
    for config in re.findall(r"--config-file (\S+)", readme):
        assert (ROOT / config).is_file(), config
    assert list((ROOT / "configs" / name).glob("*.yaml"))


def test_every_key_has_a_comment():
    for path in (ROOT / "projects").glob("*/config.py"):
        declared = path.read_text().split("def add_config(")[1].split("\ndef ")[0]
        for line in declared.splitlines():
            if re.match(r" {4}cfg\.[A-Z_.]+ = (?!CfgNode)", line):
                assert "#" in line, f"{path.name}: {line.strip()}"


def test_configs_of_projects_do_not_touch_each_other():
    cfg = get_cfg()
    before = set(cfg.MODEL)
    add_all_configs(cfg)
    assert before < set(cfg.MODEL)
    add_all_configs(again := get_cfg())
    assert again.dump() == cfg.dump()
