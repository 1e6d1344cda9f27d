"""Registers the street scenes with the data set catalogues."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from densekit.data.cityscapes import cityscapes_entries
from densekit.data.cityscapes_panoptic import cityscapes_panoptic_entries
from densekit.data.coco import instances_entry
from densekit.data.coco_meta import THINGS_COLOUR
from densekit.data.panoptic import separated_entry
from densekit.data.registry import Entry, register
from densekit.streets.labels import (
    KEYPOINT_CONNECTION_RULES,
    KEYPOINT_FLIP_MAP,
    KEYPOINT_NAMES,
    LABELS,
    STUFF,
    THINGS,
)

_MAKE = "python datasets/make_streets.py"
_SPLITS = ("train", "val")


def register_streets(root: str | os.PathLike[str] | None = None) -> None:
    """Registers the scenes under the names of every format they are written in; files are read at first use.

    ``streets_<split>`` (instances), ``keypoints_streets_<split>``, ``streets_panoptic_<split>`` (COCO panoptic,
    separated), and of the Cityscapes tree ``streets_fine_instance_seg_<split>``, ``streets_fine_sem_seg_<split>``,
    ``streets_fine_panoptic_<split>`` and ``streets_fine_panoptic_<split>_separated``, of its coarse labels
    ``streets_coarse_instance_seg_<split>`` and ``streets_coarse_sem_seg_<split>``; splits are train and val.
    Registering the same folder again is harmless.

    Args:
        root: the folder that holds the folder ``streets``; None takes DETECTRON2_DATASETS, else ``datasets``.

    Raises:
        ValueError: a name is taken by files in another folder.
    """
    folder = Path(os.environ.get("DETECTRON2_DATASETS", "datasets") if root is None else root).expanduser() / "streets"
    for entry in _entries(folder):
        load = functools.partial(_load, str(folder), entry.name, entry.load.func, *entry.load.args)
        register(entry._replace(load=load))


def _entries(folder: Path) -> Iterator[Entry]:
    annotations, instances = folder / "annotations", _instances()
    for split in _SPLITS:
        images = str(folder / split)
        objects, persons = (str(annotations / f"{stem}_{split}.json") for stem in ("instances", "person_keypoints"))
        panoptic = annotations / f"panoptic_{split}"
        yield instances_entry(f"streets_{split}", instances, objects, images)
        yield instances_entry(f"keypoints_streets_{split}", _keypoints(), persons, images)
        yield separated_entry(
            f"streets_panoptic_{split}", images, str(panoptic), f"{panoptic}.json", objects, None, instances | _stuff()
        )
    tree = str(folder / "cityscapes")
    yield from cityscapes_entries("streets_fine", tree, "gtFine", _SPLITS)
    yield from cityscapes_entries("streets_coarse", tree, "gtCoarse", _SPLITS)
    yield from cityscapes_panoptic_entries("streets_fine_panoptic", tree, _SPLITS)


def _instances() -> dict[str, Any]:
    return {
        "thing_classes": [label.name for label in THINGS],
        "thing_colors": [list(label.colour) for label in THINGS],
        "thing_dataset_id_to_contiguous_id": {label.id: i for i, label in enumerate(THINGS)},
    }


def _keypoints() -> dict[str, Any]:
    return {
        "thing_classes": ["person"],
        "thing_dataset_id_to_contiguous_id": {1: 0},
        "thing_colors": [list(LABELS["person"].colour)],
        "keypoint_names": KEYPOINT_NAMES,
        "keypoint_flip_map": KEYPOINT_FLIP_MAP,
        "keypoint_connection_rules": KEYPOINT_CONNECTION_RULES,
    }


def _stuff() -> dict[str, Any]:
    return {
        "stuff_classes": ["things", *(label.name for label in STUFF)],
        "stuff_colors": [THINGS_COLOUR, *(list(label.colour) for label in STUFF)],
        "stuff_dataset_id_to_contiguous_id": {label.id: i for i, label in enumerate(STUFF, start=1)} | {0: 0},
    }


def _load(folder: str, name: str, load: Any, *args: Any) -> list[dict[str, Any]]:
    if not (Path(folder) / "streets.json").is_file():
        raise FileNotFoundError(
            f"{folder}: the built-in data set {name!r} has not been made. Make it with `{_MAKE} --root {folder}`, "
            "or set DETECTRON2_DATASETS to the folder that holds its folder 'streets'."
        )
    return load(*args)
