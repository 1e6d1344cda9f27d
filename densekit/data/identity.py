"""Classes of a model by index, kept as ``classes.json`` in the folder of a run, for exports and for later runs.

    {"dataset": "cells_train", "thing_classes": [{"index": 0, "id": 7, "name": "cell"}, ...], ...}

``index`` is what the model learns, ``id`` the number in the data set's own files.
"""

import json
import os
from typing import Any

from densekit.d2.config import CfgNode
from densekit.d2.data import Metadata, MetadataCatalog
from densekit.data.class_counts import shortly
from densekit.files.atomic import atomic_write

__all__ = ["FILE", "check_classes_of_weights", "class_ids", "describe_classes", "shares_numbers", "write_classes"]

FILE = "classes.json"


def class_ids(metadata: Metadata, kind: str) -> list[int]:
    """The data set's id of each class number; numbers that have none stand for themselves.

    Several ids may lead to a number, and the first stands for it. Where things and stuff share their numbers, as in
    ``coco_2017_val_panoptic``, both lists name all classes, and each map has the ids of its own kind alone.

    Args:
        metadata: of a data set.
        kind: ``thing`` or ``stuff``.
    """
    names = metadata.get(f"{kind}_classes") or ()
    kinds = (kind, "stuff" if kind == "thing" else "thing") if shares_numbers(metadata) else (kind,)
    ids: dict[int, int] = {}
    for one in kinds:
        for key, number in (metadata.get(f"{one}_dataset_id_to_contiguous_id") or {}).items():
            ids.setdefault(number, int(key))
    return [ids.get(number, number) for number in range(len(names))]


def shares_numbers(metadata: Metadata) -> bool:
    """Tells whether things and stuff are numbered together."""
    things, stuff = (list(metadata.get(f"{kind}_classes") or ()) for kind in ("thing", "stuff"))
    return bool(things) and things == stuff


def describe_classes(dataset_name: str) -> dict[str, Any]:
    """Returns the content of ``classes.json`` for a data set."""
    metadata = MetadataCatalog.get(dataset_name)
    content: dict[str, Any] = {"dataset": dataset_name}
    for kind in ("thing", "stuff"):
        names = metadata.get(f"{kind}_classes")
        if names is not None:
            pairs = zip(class_ids(metadata, kind), names)
            content[f"{kind}_classes"] = [{"index": i, "id": key, "name": name} for i, (key, name) in enumerate(pairs)]
            if colours := metadata.get(f"{kind}_colors"):
                content[f"{kind}_colors"] = [[int(value) for value in colour] for colour in colours]
    if shares_numbers(metadata):
        content["stuff_ids"] = sorted(metadata.get("stuff_dataset_id_to_contiguous_id") or ())
    if metadata.get("keypoint_names") is not None:
        content["keypoint_names"] = list(metadata.keypoint_names)
    return content


def write_classes(folder: str, dataset_name: str) -> None:
    """Writes ``classes.json`` for the data set that a run trains on."""
    with atomic_write(os.path.join(folder, FILE)) as file:
        json.dump(describe_classes(dataset_name), file, indent=1, ensure_ascii=False)


def check_classes_of_weights(cfg: CfgNode, names: tuple[str, ...], folder: str) -> None:
    """Compares data sets with the classes that weights were trained on, where these were written down.

    Args:
        cfg: The config of the run.
        names: The lists that count: ``thing_classes``, ``stuff_classes``.
        folder: Of the weights.

    Raises:
        ValueError: A data set of DATASETS.TEST has other classes.
    """
    path = os.path.join(folder, FILE)
    if not os.path.isfile(path):
        return
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        before = {key: [entry["name"] for entry in content[key]] for key in names if key in content}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}). Remove it to go on without the check of the classes."
        ) from error
    for dataset_name in cfg.DATASETS.TEST:
        for key, classes in before.items():
            here = MetadataCatalog.get(dataset_name).get(key)
            if here is not None and list(here) != classes:
                raise ValueError(
                    f"The weights in {folder} were trained on data set {content.get('dataset')!r} with {len(classes)} "
                    f"classes ({shortly(classes)}), and data set {dataset_name!r} has {len(here)} ({shortly(here)}). "
                    "Evaluate on data with the same classes in the same order."
                )
