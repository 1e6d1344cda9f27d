"""Registers the street scenes with the data set catalogues."""

import functools
import os
from pathlib import Path
from typing import Any

from densekit.data.streets.labels import KEYPOINT_CONNECTION_RULES, KEYPOINT_FLIP_MAP, KEYPOINT_NAMES, LABELS, THINGS

Records = list[dict[str, Any]]

_MAKE = "python datasets/make_streets.py"


def register_streets(root: str | os.PathLike[str] | None = None) -> None:
    """Registers ``streets_{train,val}`` (instances) and ``keypoints_streets_{train,val}``; files are read at first use.

    Registering the same folder again is harmless.

    Args:
        root: the folder that holds the folder ``streets``; None takes DETECTRON2_DATASETS, else ``datasets``.

    Raises:
        ValueError: a name is taken by files in another folder.
    """
    # Imported here, so that making the pictures needs neither a host nor torch.
    from densekit.d2.data import DatasetCatalog, MetadataCatalog

    folder = Path(os.environ.get("DETECTRON2_DATASETS", "datasets") if root is None else root).expanduser() / "streets"
    instances = {
        "thing_classes": [label.name for label in THINGS],
        "thing_colors": [list(label.colour) for label in THINGS],
        "thing_dataset_id_to_contiguous_id": {label.id: i for i, label in enumerate(THINGS)},
    }
    keypoints = {
        "thing_classes": ["person"],
        "thing_colors": [list(LABELS["person"].colour)],
        "keypoint_names": KEYPOINT_NAMES,
        "keypoint_flip_map": KEYPOINT_FLIP_MAP,
        "keypoint_connection_rules": KEYPOINT_CONNECTION_RULES,
    }
    for split in ("train", "val"):
        for name, stem, metadata in (
            (f"streets_{split}", f"instances_{split}", instances),
            (f"keypoints_streets_{split}", f"person_keypoints_{split}", keypoints),
        ):
            files = (str(folder / "annotations" / f"{stem}.json"), str(folder / split))
            if name not in DatasetCatalog:
                DatasetCatalog.register(name, functools.partial(_load, *files, name))
            elif (known := getattr(DatasetCatalog[name], "args", None)) != (*files, name):
                raise ValueError(f"data set {name!r} is registered already, with {known}, not with {files[0]}")
            MetadataCatalog.get(name).set(json_file=files[0], image_root=files[1], evaluator_type="coco", **metadata)


def _load(json_file: str, image_root: str, name: str) -> Records:
    from densekit.data.coco import load_coco_json

    if not Path(json_file).is_file():
        folder = Path(json_file).parents[1]
        raise FileNotFoundError(
            f"{json_file}: the built-in data set {name!r} has not been made. Make it with `{_MAKE} --root {folder}`, "
            "or set DETECTRON2_DATASETS to the folder that holds its folder 'streets'."
        )
    return load_coco_json(json_file, image_root, name)
