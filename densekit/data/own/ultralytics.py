"""Ultralytics' ``data.yaml`` as a data set file: its folders become data sets of form ``yolo``."""

import os
from collections.abc import Mapping
from typing import Any

import yaml

__all__ = ["SPLITS", "entries_of", "is_ultralytics", "is_ultralytics_file"]

SPLITS = ("train", "val", "test")


def is_ultralytics(content: Any) -> bool:
    """Tells whether the content of a YAML file is of this kind, and no list of data sets."""
    return isinstance(content, Mapping) and "names" in content and any(split in content for split in SPLITS)


def is_ultralytics_file(path: str) -> bool:
    """Tells whether a file is of this kind; one that cannot be read is not."""
    try:
        with open(path, encoding="utf-8") as file:
            return is_ultralytics(yaml.safe_load(file))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False


def entries_of(content: Mapping[str, Any], path: str) -> dict[str, dict[str, Any]]:
    """Returns a data set file's entries, named ``train``, ``val`` and ``test``.

    Folders are relative to ``path`` in the file, or else to the file; where ``../train/images``, as exports of Roboflow
    have it, is not there, ``train/images`` is taken, as the trainers of this form do.

    Raises:
        ValueError: A split is not one folder of images.
    """
    here = os.path.dirname(os.path.abspath(path))
    root = str(content.get("path") or "")
    root = os.path.join(here, root) if os.path.isdir(os.path.join(here, root)) else os.path.abspath(root or here)
    entries = {}
    for split in SPLITS:
        folder = content.get(split)
        if folder is None:
            continue
        if not isinstance(folder, str) or folder.endswith(".txt"):
            raise ValueError(
                f"{path}: {split} is {folder!r}; one folder of images is needed. Lists of images go into a data set "
                "file: 'NAME: {form: yolo, images: FOLDER, classes: data.yaml, split: list.txt}'."
            )
        found = os.path.normpath(os.path.join(root, folder))
        if not os.path.isdir(found) and folder.startswith("../"):
            found = os.path.normpath(os.path.join(root, folder[3:]))
        entries[split] = {"form": "yolo", "images": found, "classes": os.path.abspath(path)}
    return entries
