"""The seam is a list of names: the same on both hosts, and nothing else."""

import ast
import importlib
from pathlib import Path

import pytest

from densekit.d2 import HOST

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path for path in (ROOT / "densekit" / "d2").rglob("*.py") if "TYPE_CHECKING" in path.read_text())


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_both_branches_import_the_same_names(path):
    tree = ast.parse(path.read_text())
    branch = next(node for node in tree.body if isinstance(node, ast.If))
    (builtin,), (detectron2,) = branch.body, branch.orelse
    assert isinstance(builtin, ast.ImportFrom) and isinstance(detectron2, ast.ImportFrom)
    suffix = name_of(path).removeprefix("densekit.d2")
    assert builtin.module == "densekit.runtime" + suffix
    assert detectron2.module == "detectron2" + suffix
    names = [alias.name for alias in builtin.names]
    assert names == [alias.name for alias in detectron2.names]
    assert all(alias.asname is None for alias in [*builtin.names, *detectron2.names])
    exported = next(node for node in tree.body if isinstance(node, ast.Assign))
    assert sorted(names) == ast.literal_eval(exported.value)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_host_provides_every_name(path):
    module = importlib.import_module(name_of(path))
    home = "densekit.runtime" if HOST == "builtin" else "detectron2"
    host = importlib.import_module(name_of(path).replace("densekit.d2", home))
    assert all(getattr(module, name) is getattr(host, name) for name in module.__all__)


def test_seam_modules_hold_no_logic():
    for path in MODULES:
        kinds = {type(node) for node in ast.walk(ast.parse(path.read_text()))}
        assert not kinds & {ast.FunctionDef, ast.ClassDef, ast.Try, ast.For, ast.Call}, path


def test_the_model_zoo_is_the_one_module_that_both_hosts_share():
    """Detectron2's looks into its own package, with pkg_resources, and knows none of densekit's keys."""
    tree = ast.parse((ROOT / "densekit" / "d2" / "model_zoo.py").read_text())
    (imported,) = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert imported.module == "densekit.model_zoo"
    assert sorted(alias.name for alias in imported.names) == ["get", "get_config", "get_config_file"]
