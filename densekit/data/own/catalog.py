"""A user's own data sets, from a small YAML file or by one call, without code of their own.

The file maps each name to its form and its files; paths are relative to the YAML file::

    cells_train:
      form: coco                  # COCO JSON of instances or keypoints
      json: annotations/train.json
      images: images
"""

import difflib
import functools
import logging
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

import yaml

from densekit.d2.data import DatasetCatalog
from densekit.data.own.cityscapes import CITYSCAPES
from densekit.data.own.class_folders import CLASS_FOLDERS
from densekit.data.own.coco import COCO, COCO_PANOPTIC
from densekit.data.own.images import IMAGES
from densekit.data.own.label_maps import SEMANTIC
from densekit.data.own.labelme import LABELME
from densekit.data.own.options import Form, Place, portable
from densekit.data.own.ultralytics import entries_of, is_ultralytics
from densekit.data.own.voc import VOC
from densekit.data.own.yolo import YOLO
from densekit.data.registry import Records, register

__all__ = ["FORMS", "register_dataset", "register_from_yaml"]

FORMS: dict[str, Form] = {
    "coco": COCO,
    "coco_panoptic": COCO_PANOPTIC,
    "cityscapes": CITYSCAPES,
    "semantic": SEMANTIC,
    "voc": VOC,
    "yolo": YOLO,
    "labelme": LABELME,
    "classes": CLASS_FOLDERS,
    "images": IMAGES,
}

_DEPTH = "bit_depth"  # of every form: how many bits of a picture's 16 are used

logger = logging.getLogger(__name__)


def register_from_yaml(path: str | os.PathLike[str], used: Collection[str] | None = None) -> list[str]:
    """Registers every data set of the file; doing so twice is harmless.

    Args:
        path: The file.
        used: The data sets that are needed: others that cannot be registered are left out with a warning, for their
            files may be on another machine. None needs all of them.

    Returns:
        The registered names.

    Raises:
        FileNotFoundError: The file, or a file or folder that it names, does not exist.
        ValueError: The file is not YAML, an entry is not of a known form, or a name is taken by another data set.
    """
    return list(register_entries(os.fspath(path), used))


def register_entries(path: str, used: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """As :func:`register_from_yaml`; returns the registered entries by name, with absolute paths."""
    folder = os.path.dirname(os.path.abspath(path))
    entries = {}
    for name, entry in read_catalog(path).items():
        taken = name in DatasetCatalog
        try:
            entries[name] = _register(Place(f"{path}, data set {name!r}", folder), name, entry)
        except (ValueError, FileNotFoundError) as error:
            if used is None or name in used or taken:  # the name would stand for other data than the file says
                raise
            logger.warning("%s It is left out, since it is not used here.", error)
    return entries


def register_flag(flag: str, name: str, value: str) -> dict[str, Any]:
    """Registers the data set that a flag of the command line describes.

    Args:
        flag: Its name, for messages.
        name: For the data set.
        value: An entry of a data set file in one line, braces or not: ``form: voc, images: photos, annotations: xml``.

    Returns:
        The entry, with absolute paths.

    Raises:
        FileNotFoundError, ValueError: As :func:`register_dataset`; or the value is no such entry.
    """
    words = value.strip()
    if words.lower().endswith((".yaml", ".yml")) and os.path.isfile(words):
        return _register(Place(f"{flag} {value!r}", os.getcwd()), name, _split_of(flag, words))
    try:
        entry = yaml.load(words if words.startswith("{") else f"{{{words}}}", Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise ValueError(
            f"{flag} {value!r} cannot be read: {error}. Write it as 'form: coco, json: train.json, images: photos'."
        ) from error
    return _register(Place(f"{flag} {value!r}", os.getcwd()), name, entry)


def _split_of(flag: str, path: str) -> dict[str, Any]:
    """The entry of Ultralytics' file that a flag means."""
    entries = read_catalog(path)
    split = "train" if flag == "--train-data" else "val"
    if entries.get(split, {}).get("classes") != os.path.abspath(path):
        raise ValueError(f"{flag} {path}: the file has no {split}, or is no data.yaml; a data set file is --datasets.")
    return entries[split]


def read_catalog(path: str) -> dict[str, Any]:
    """Reads the entries of a data set file, unchecked.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not YAML, or no mapping of names.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Data set file {path} (--datasets, DATASETS.CATALOG): there is no such file.")
    with open(path, encoding="utf-8") as file:
        try:
            entries = yaml.load(file, Loader=_UniqueKeys)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"Data set file {path} is not YAML: {error}") from error
    if is_ultralytics(entries):
        return dict(entries_of(entries, path))
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"Data set file {path}: expected 'NAME: {{form: coco, json: FILE, images: FOLDER}}' entries.")
    return {str(name): entry for name, entry in entries.items()}


def register_dataset(name: str, form: str, **options: Any) -> None:
    """Registers one data set; the same again is harmless.

    Args:
        name: For DATASETS.TRAIN and DATASETS.TEST.
        form: A key of :data:`FORMS`.
        **options: The keys of that form, as in the YAML file; paths are relative to the working directory.

    Raises:
        FileNotFoundError: A file or folder does not exist.
        ValueError: The form or an option is not known, one is missing or wrong, or the name is taken.
    """
    _register(Place(f"data set {name!r}", os.getcwd()), name, {"form": form, **options})


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader with an error where a name occurs twice, of which it would drop one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next(
            (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and names.count(key.value) > 1), None
        )
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice.value!r} occurs twice", twice.start_mark)
        return super().construct_mapping(node, deep)


def with_depth(load: "functools.partial[Records]", bits: int) -> "functools.partial[Records]":
    """A loader whose records say how many bits of their pictures' 16 are used."""
    return functools.partial(load_with_depth, bits, load.func, load.args, tuple(sorted(load.keywords.items())))


def load_with_depth(
    bits: int, load: Callable[..., Records], args: tuple[Any, ...], keywords: tuple[tuple[str, Any], ...]
) -> Records:
    """Calls a loader and adds ``bit_depth`` to its records."""
    records = load(*args, **dict(keywords))
    for record in records:
        record[_DEPTH] = bits
    return records


def _register(place: Place, name: str, entry: Any) -> dict[str, Any]:
    """Registers an entry; returns it with absolute paths."""
    form_name = entry.get("form", "coco") if isinstance(entry, Mapping) else None
    form = FORMS.get(form_name) if isinstance(form_name, str) else None
    if form is None:
        near = difflib.get_close_matches(str(form_name), FORMS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"{place.where}: form is {form_name!r}; known forms: {', '.join(FORMS)}.{hint}")
    given = {key: value for key, value in entry.items() if key not in ("form", _DEPTH) and value is not None}
    bits = entry.get(_DEPTH, 0)
    if type(bits) is not int or bits not in (0, *range(9, 17)):
        raise ValueError(f"{place.where}: {_DEPTH} is {bits!r}; it is the number of bits, 9 to 16.")
    missing = [key for key, option in form.options.items() if option.required and key not in given]
    unknown = sorted(str(key) for key in given.keys() - form.options.keys())
    if missing or unknown:
        problem = f"{', '.join(missing)} missing" if missing else f"unknown key {', '.join(unknown)}"
        raise ValueError(f"{place.where}: {problem}; form {form_name!r} takes {form.usage()}.")
    options = {key: form.options[key].read(place, key, value) for key, value in given.items()}
    try:
        own = form.entry(name, **options)
        register(own if not bits else own._replace(load=with_depth(own.load, bits)))
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{place.where}: {error}") from error
    depth = {_DEPTH: bits} if bits else {}
    return (
        {"form": form_name} | depth | {key: portable(place, form.options[key], value) for key, value in given.items()}
    )
