"""Who may import whom, how large things may grow, and what an import may cost."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED_LAYERS = ("modeling", "data", "streets", "evaluation", "engine", "checkpoint", "formats", "inference", "report")
# Each of these may import those before it.
UPPER_LAYERS = ("data", "evaluation", "formats", "engine", "inference", "report", "cli")


def layers_above() -> dict[str, list[str]]:
    return {layer: [f"densekit.{above}" for above in UPPER_LAYERS[i + 1 :]] for i, layer in enumerate(UPPER_LAYERS)}


# First matching prefix of a module decides; the value lists what it must not import.
FORBIDDEN = {
    "densekit.ops": ("detectron2", "fvcore", "yacs", "densekit.d2", "densekit.runtime", "densekit.projects"),
    "densekit.weights": ("detectron2", "fvcore", "yacs", "densekit.d2", "densekit.runtime", "densekit.projects"),
    "densekit.files": ("detectron2", "fvcore", "yacs", "densekit.d2", "densekit.runtime", "densekit.projects"),
    "densekit.layers": ("detectron2", "fvcore", "yacs", "densekit.d2", "densekit.runtime", "densekit.projects"),
    "densekit.metrics": ("detectron2", "fvcore", "yacs", "densekit.d2", "densekit.runtime", "densekit.projects"),
    "densekit.runtime": (
        "detectron2",
        "densekit.d2",
        "densekit.projects",
        "densekit.config",
        "densekit.config_defaults",
        "densekit.solver",
        *(f"densekit.{layer}" for layer in SHARED_LAYERS),
    ),
    "densekit.d2": ("densekit.projects", *(f"densekit.{layer}" for layer in SHARED_LAYERS)),
    "densekit.projects": ("detectron2", "densekit.runtime", *(f"densekit.{layer}" for layer in UPPER_LAYERS[-3:])),
    **{
        f"densekit.{layer}": ("detectron2", "densekit.runtime", "densekit.projects", *above)
        for layer, above in layers_above().items()
        if layer != "cli"
    },
    "densekit": ("detectron2", "densekit.runtime"),
    "train_net": ("detectron2", "densekit.runtime"),
    "datasets": ("detectron2", "densekit.runtime"),
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
        allowed = "detectron2" if layer == "densekit.d2" else None
        for imported in imported_modules(path):
            if any(starts(imported, bad) for bad in FORBIDDEN[layer] if bad != allowed):
                wrong.append(f"{path.relative_to(ROOT)} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_detectron2_is_imported_at_the_seam_only():
    free = ("densekit/d2/", "tests/parity/")
    wrong = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if not str(path.relative_to(ROOT)).startswith(free)
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
    free = {"densekit/weights/unpickling.py"}  # a class that checkpoints of others hold
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
