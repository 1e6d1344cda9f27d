"""The own data sets of a run, for those who look at its folder: predictions, reports, submissions, checks."""

import os
from collections.abc import Collection
from pathlib import Path

import yaml

from densekit.data.own.catalog import register_from_yaml

__all__ = ["CATALOG", "catalog_of_run", "register_for_run", "run_of"]

CATALOG, _CONFIG = "datasets.yaml", "config.yaml"


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


def run_of(path: Path) -> Path | None:
    """Returns the OUTPUT_DIR that a folder is or lies in; None where there is none."""
    folder = path.absolute()
    return next((parent for parent in (folder, *folder.parents[:3]) if (parent / _CONFIG).is_file()), None)
