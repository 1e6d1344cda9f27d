"""A user's own data sets, from a small YAML file and without code.

The file maps each name to its form and its files; paths are relative to the YAML file::

    cells_train:
      form: coco                  # COCO JSON of instances or keypoints
      json: annotations/train.json
      images: images
"""

import os
from typing import Any

import yaml

from densekit.data.coco import register_coco_instances

__all__ = ["register_from_yaml"]

_FORMS = {"coco": ("json", "images")}


def register_from_yaml(path: str | os.PathLike[str]) -> list[str]:
    """Registers every data set of the file; doing so twice is harmless.

    Returns:
        The registered names.

    Raises:
        FileNotFoundError: The file, or a file or folder that it names, does not exist.
        ValueError: The file is not YAML, an entry is not of a known form, or a name is taken by another data set.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"--datasets {path}: there is no such file.")
    with open(path, encoding="utf-8") as file:
        try:
            entries = yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise ValueError(f"--datasets {path} is not YAML: {error}") from error
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"--datasets {path}: expected 'NAME: {{form: coco, json: FILE, images: FOLDER}}' entries.")
    for name, entry in entries.items():
        _register(path, str(name), entry)
    return [str(name) for name in entries]


def _register(path: str, name: str, entry: Any) -> None:
    where = f"{path}, data set {name!r}"
    form = entry.get("form", "coco") if isinstance(entry, dict) else None
    if form not in _FORMS:
        raise ValueError(f"{where}: form is {form!r}; known forms: {', '.join(_FORMS)}.")
    keys = _FORMS[form]
    missing, unknown = [key for key in keys if key not in entry], sorted(set(entry) - {"form", *keys})
    if missing or unknown:
        problem = f"{', '.join(missing)} missing" if missing else f"unknown key {', '.join(unknown)}"
        raise ValueError(f"{where}: {problem}; form {form!r} takes {', '.join(keys)}.")
    folder = os.path.dirname(os.path.abspath(path))
    files = {key: os.path.normpath(os.path.join(folder, os.path.expanduser(str(entry[key])))) for key in keys}
    for key, value in files.items():
        if not os.path.exists(value):
            raise FileNotFoundError(f"{where}: {key} is {value}, which does not exist.")
    register_coco_instances(name, {}, files["json"], files["images"])
