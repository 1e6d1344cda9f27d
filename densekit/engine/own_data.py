"""The user's own data sets in a run: registered in every process, and described in the run's folder."""

import os
from dataclasses import replace
from typing import Any

import yaml

from densekit.d2.config import CfgNode
from densekit.d2.utils import comm
from densekit.data.own.catalog import read_catalog, register_entries, register_flag
from densekit.data.own.runs import CATALOG
from densekit.data.own.ultralytics import is_ultralytics_file
from densekit.files.atomic import atomic_write
from densekit.run_options import RunOptions

_FLAGS = (("train_data", "--train-data", "own_train", "TRAIN"), ("val_data", "--val-data", "own_val", "TEST"))
OWN_NAMES = tuple(name for _, _, name, _ in _FLAGS)


def register_own_data(cfg: CfgNode, options: RunOptions, *, writes: bool = True) -> list[str]:
    """Registers what ``--datasets`` (or DATASETS.CATALOG), ``--train-data`` and ``--val-data`` describe.

    The run's folder gets a copy of the descriptions with absolute paths, ``datasets.yaml``, and DATASETS.CATALOG names
    it, so that the run's ``config.yaml`` works from anywhere.

    Args:
        cfg: The config, not frozen. The flags set DATASETS.TRAIN and DATASETS.TEST.
        options: Of the run.
        writes: Whether the folder gets its copy.

    Returns:
        Lines for the log.

    Raises:
        FileNotFoundError, ValueError: A description is wrong, or contradicts an override.
    """
    flagged: dict[str, Any] = {}
    given = options.train_data.strip()
    both = is_ultralytics_file(given) and not options.val_data and "DATASETS.TEST" not in options.opts[::2]
    if both and "val" in read_catalog(given):
        options = replace(options, val_data=given)  # Ultralytics' data.yaml names both
    for attribute, flag, name, key in _FLAGS:
        if value := getattr(options, attribute):
            if f"DATASETS.{key}" in options.opts[::2]:
                raise ValueError(f"{flag} and DATASETS.{key} both say what to use; leave one of them out.")
            flagged[name] = register_flag(flag, name, value)
            cfg.DATASETS[key] = (name,)
    notes = []
    if options.train_data and not options.val_data and "DATASETS.TEST" not in options.opts[::2]:
        cfg.DATASETS.TEST = ()
        notes.append("There is no --val-data: nothing will be evaluated.")
    path = options.datasets or cfg.DATASETS.CATALOG
    if options.datasets and is_ultralytics_file(options.datasets):
        for key, name in (("TRAIN", "train"), ("TEST", "val")):
            if f"DATASETS.{key}" not in options.opts[::2] and not flagged:
                cfg.DATASETS[key] = (name,) if name in read_catalog(path) else ()
    used = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    entries = (register_entries(path, used) if path else {}) | flagged
    if entries:
        cfg.DATASETS.CATALOG = os.path.abspath(os.path.join(cfg.OUTPUT_DIR, CATALOG))
        if writes and comm.is_main_process():
            _keep(cfg.DATASETS.CATALOG, entries)
    return notes


def _keep(path: str, entries: dict[str, Any]) -> None:
    """Adds descriptions to those that the folder has, of data sets that it was trained or evaluated on before."""
    entries = (read_catalog(path) if os.path.isfile(path) else {}) | entries
    with atomic_write(path) as file:
        file.write("# Own data sets of this run; the paths are absolute.\n")
        yaml.safe_dump(entries, file, sort_keys=False, allow_unicode=True)
