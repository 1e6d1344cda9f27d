"""The own data sets of a run, for those who look at its folder: predictions, reports, submissions, checks."""

import os
from collections.abc import Collection
from pathlib import Path

import yaml

from densekit.data.own.catalog import register_from_yaml
from densekit.files.atomic import atomic_write

__all__ = ["CATALOG", "catalog_of_run", "keep_root", "register_for_run", "run_of", "use_root_of_run"]

CATALOG, _CONFIG, _ROOT = "datasets.yaml", "config.yaml", "datasets_root.txt"
_VARIABLE = "DETECTRON2_DATASETS"


def register_for_run(folder: str | os.PathLike[str], given: str | None, used: Collection[str]) -> None:
    """Registers the data sets that a run was made with.

    Args:
        folder: OUTPUT_DIR of the run.
        given: A data set file that goes before what the run says; None or "" for none.
        used: The data sets that are needed; others that cannot be registered are left out with a warning.

    Raises:
        FileNotFoundError, ValueError: As :func:`~densekit.data.own.catalog.register_from_yaml`.
    """
    if path := given or catalog_of_run(folder):
        register_from_yaml(path, used)


def catalog_of_run(folder: str | os.PathLike[str]) -> str:
    """Returns the data set file of a run: what it has kept, else what its configuration names; "" for none.

    Raises:
        ValueError: Its configuration is not YAML.
    """
    kept, config = Path(folder) / CATALOG, Path(folder) / _CONFIG
    if kept.is_file():
        return str(kept)
    return _catalog_of_config(config) if config.is_file() else ""


def _catalog_of_config(path: Path) -> str:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    datasets = content.get("DATASETS") if isinstance(content, dict) else None
    return str(datasets.get("CATALOG") or "") if isinstance(datasets, dict) else ""


def keep_root(folder: str | os.PathLike[str]) -> None:
    """Writes down where the standard data sets of a run are, for those who look at its folder later."""
    with atomic_write(Path(folder) / _ROOT) as file:
        file.write(f"{os.path.abspath(os.environ.get(_VARIABLE) or 'datasets')}\n")


def use_root_of_run(folder: str | os.PathLike[str]) -> None:
    """Takes the standard data sets from where the run had them, unless the environment names another place.

    Call it before they are registered, which importing :mod:`densekit.data` does.
    """
    run = run_of(Path(folder))
    kept = run / _ROOT if run is not None else None
    if kept is None or not kept.is_file() or os.environ.get(_VARIABLE):
        return
    root = kept.read_text(encoding="utf-8").strip()
    if os.path.isdir(root):
        os.environ[_VARIABLE] = root


def run_of(path: Path) -> Path | None:
    """Returns the OUTPUT_DIR that a folder is or lies in; None where there is none."""
    folder = path.absolute()
    return next((parent for parent in (folder, *folder.parents[:3]) if (parent / _CONFIG).is_file()), None)
