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


def names_in(tree: ast.Module) -> list[tuple[str, str | None]]:
    """Each assigned name of a module, and the name of the host that it is taken from."""
    found: list[tuple[str, str | None]] = []
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            (target,) = node.targets if isinstance(node, ast.Assign) else (node.target,)
            value = node.value
            taken = isinstance(value, ast.Attribute) and ast.unparse(value.value) == "host"
            found.append((ast.unparse(target), value.attr if taken else None))
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_name_is_taken_from_the_module_of_the_same_path(path):
    tree = ast.parse(path.read_text())
    (branch,) = [node for node in tree.body if isinstance(node, ast.If)]
    assert ast.unparse(branch.test) == "TYPE_CHECKING or HOST == 'builtin'"
    suffix = name_of(path).removeprefix("densekit.d2")
    assert ast.unparse(branch.body) == f"import densekit.runtime{suffix} as host"
    assert ast.unparse(branch.orelse) == f"import detectron2{suffix} as host"
    names = names_in(tree)
    assert names and all(name == source for name, source in names)
    assert names == sorted(set(names))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_host_provides_every_name(path):
    module = importlib.import_module(name_of(path))
    home = "densekit.runtime" if HOST == "builtin" else "detectron2"
    host = importlib.import_module(name_of(path).replace("densekit.d2", home))
    names = names_in(ast.parse(path.read_text()))
    assert all(getattr(module, name) is getattr(host, name) for name, _ in names)


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
