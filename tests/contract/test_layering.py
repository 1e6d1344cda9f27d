"""Who may import whom, how large things may grow, and what an import may cost."""

import ast
import os
import subprocess
import sys
from collections.abc import Sequence
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Every package of densekit; each may import those before it.
LAYERS = (
    *("ops", "files", "weights", "layers", "metrics", "streets"),  # know no host
    *("runtime", "d2"),
    *("solver", "checkpoint", "modeling", "data", "evaluation", "formats", "deploy"),
    *("engine", "inference", "report", "cli"),  # may know the configuration too, which knows every system
)
HOSTLESS, ABOVE_CONFIG = LAYERS[:6], LAYERS[-4:]
CONFIGURATION = ("config", "config_check", "config_defaults", "model_zoo", "api")
# Facades of what stands above them, as Detectron2 has it; nothing of densekit imports them.
FACADES = ("densekit.d2.model_zoo",)


def forbidden_to(layer: str) -> list[str]:
    """Returns what a package must not import, apart from ``detectron2``."""
    wrong = [f"densekit.{above}" for above in LAYERS[LAYERS.index(layer) + 1 :]]
    if layer in HOSTLESS:
        wrong += ["fvcore", "yacs"]
    if layer not in ABOVE_CONFIG:
        wrong += [f"densekit.{module}" for module in CONFIGURATION]
    if layer not in (*HOSTLESS, "runtime", "d2"):
        wrong.append("densekit.runtime")
    return wrong if layer == "cli" else [*wrong, "densekit.projects"]


# First matching prefix of a module decides; the value lists what it must not import.
FORBIDDEN: dict[str, Sequence[str]] = {
    **dict.fromkeys(FACADES, ("densekit.runtime", "densekit.projects")),
    **{f"densekit.{layer}": forbidden_to(layer) for layer in LAYERS},
    "densekit.projects": ("densekit.runtime", "densekit.inference", "densekit.report", "densekit.cli"),
    "densekit": ("densekit.runtime",),
    "train_net": ("densekit.runtime",),
    "datasets": ("densekit.runtime",),
}


def python_files() -> list[Path]:
    folders = ("densekit", "projects", "benchmarks", "datasets", "tests")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [*files, ROOT / "train_net.py"]


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "projects":
        parts.insert(0, "densekit")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> set[str]:
    """Every absolute module name that a file imports, relative imports resolved."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            names.add(".".join(base))
            names.update(".".join([*base, alias.name]) for alias in node.names)
    return names


def starts(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def test_layers_import_downwards_only():
    wrong = []
    for path in python_files():
        name = module_name(path)
        layer = next((prefix for prefix in FORBIDDEN if starts(name, prefix)), None)
        if layer is None:
            continue
        for imported in imported_modules(path):
            if any(starts(imported, bad) for bad in FORBIDDEN[layer]):
                wrong.append(f"{path.relative_to(ROOT)} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_every_package_has_its_layer():
    packages = {path.parent.name for path in (ROOT / "densekit").glob("*/__init__.py")}
    assert packages == set(LAYERS)


def package_of(module: str) -> str:
    """The package that a module counts to; the list of systems and each of its rooms are packages of their own."""
    if facade := next((name for name in FACADES if starts(module, name)), None):
        return facade
    return ".".join(module.split(".")[: 3 if starts(module, "densekit.projects") else 2])


def test_no_packages_import_each_other_in_a_circle():
    """Imports within functions count too. ``densekit`` itself is the interface, which imports nothing by itself."""
    modules = {module_name(path): path for path in python_files()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        if not name.startswith("densekit."):
            continue
        own = graph.setdefault(package_of(name), set())
        for imported in imported_modules(path):
            module = imported if imported in modules else imported.rpartition(".")[0]
            if module in modules and module.startswith("densekit.") and package_of(module) != package_of(name):
                own.add(package_of(module))
    list(TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def test_detectron2_is_imported_at_the_seam_only():
    free = ("densekit/d2/", "tests/parity/")
    wrong = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if not str(path.relative_to(ROOT)).startswith(free)
        and not path.match("tests/projects/*/test_*_parity.py")
        and any(starts(name, "detectron2") for name in imported_modules(path))
    ]
    assert not wrong, wrong


def test_projects_do_not_import_each_other():
    wrong = []
    for path in sorted((ROOT / "projects").rglob("*.py")):
        own = ".".join(module_name(path).split(".")[:3])
        if path.parent == ROOT / "projects":
            continue
        wrong += [
            f"{path.relative_to(ROOT)} imports {name}"
            for name in imported_modules(path)
            if name.startswith("densekit.projects.") and not starts(name, own)
        ]
    assert not wrong, "\n".join(wrong)


def test_files_and_functions_stay_readable():
    wrong = []
    for path in python_files():
        text = path.read_text()
        if (lines := text.count("\n")) > 600:
            wrong.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 60:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
    assert not wrong, "\n".join(wrong)


def test_the_namespace_of_a_command_line_stays_there():
    """Below the commands travel a configuration and named options."""
    free = {"densekit/files/unpickling.py"}  # a class that checkpoints of others hold
    wrong = []
    for path in python_files():
        name = str(path.relative_to(ROOT))
        if not name.startswith(("densekit/", "projects/")) or name.startswith("densekit/cli/") or name in free:
            continue
        nodes = ast.walk(ast.parse(path.read_text()))
        used = {node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "") for node in nodes}
        names = {name.rpartition(".")[2] for name in imported_modules(path)}
        wrong += [name] if "Namespace" in used | names else []
    assert not wrong, wrong


def test_launcher_stays_small():
    assert (ROOT / "train_net.py").read_text().count("\n") <= 120


@pytest.mark.parametrize(
    "statement", ["import densekit", "import densekit.cli.arguments", "import densekit.cli, densekit.cli.train"]
)
def test_light_imports_do_not_load_torch(statement):
    code = f"import sys; {statement}; sys.exit('torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT).returncode == 0


def test_help_does_not_load_torch():
    code = "import sys, runpy\ntry:\n runpy.run_path('train_net.py', run_name='__main__')\nexcept SystemExit: pass\n"
    code += "sys.exit(3 if 'torch' in sys.modules else 0)"
    run = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "--config-file" in run.stdout
