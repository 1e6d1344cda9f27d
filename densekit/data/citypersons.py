"""CityPersons (arXiv 1702.05693): boxes of whole persons in the frames of Cityscapes, as a detection set."""

import functools
import json
import os
from collections.abc import Iterator
from typing import Any

from densekit.d2.structures import BoxMode
from densekit.data.cityscapes import Frame, list_frames
from densekit.data.coco_json import read_json
from densekit.data.pictures import image_size
from densekit.data.regions import in_threads
from densekit.data.registry import Entry, Records

__all__ = ["citypersons_entries", "load_citypersons"]

CLASSES = ("pedestrian", "rider", "sitting person", "person (other)")
_CROWDS = ("person group", "ignore")  # where detections of any class count neither way

_KIND = "gtBboxCityPersons"


def load_citypersons(image_dir: str, gt_dir: str) -> Records:
    """Reads the records of a split.

    Args:
        image_dir: ``.../leftImg8bit/<split>``.
        gt_dir: ``.../gtBboxCityPersons/<split>``.

    Returns:
        ``file_name, image_id`` (the file's name)``, height, width`` and ``annotations`` with ``bbox`` (xywh, pixels, of
        the whole person, also where it is hidden), ``bbox_mode, category_id`` (0..3) and ``iscrowd``. Groups and
        regions to ignore are crowds of every class.

    Raises:
        FileNotFoundError: A folder or a file of boxes does not exist.
        ValueError: A file is no JSON of boxes, or has a label that is none of CityPersons'.
    """
    if not os.path.isdir(gt_dir):
        raise FileNotFoundError(
            f"Folder {gt_dir} does not exist. A Cityscapes tree has {_KIND}/{{train,val}}/<city>/, from "
            f"gtBbox_cityPersons_trainval.zip, beside leftImg8bit. DETECTRON2_DATASETS names the folder that holds "
            "cityscapes/."
        )
    return in_threads(_record, list_frames(image_dir, gt_dir))


def _record(frame: Frame) -> dict[str, Any]:
    path = frame.need(".json")
    content, _ = read_json(path)
    height, width = image_size(frame.image)
    try:
        annotations = [annotation for item in content["objects"] for annotation in _annotations(path, item)]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of CityPersons' boxes: {json.dumps(str(error))}.") from error
    name = os.path.basename(frame.image)
    return {"file_name": frame.image, "image_id": name, "height": height, "width": width, "annotations": annotations}


def _annotations(path: str, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    label, box = item["label"], [float(value) for value in item["bbox"]]
    if label not in CLASSES and label not in _CROWDS:
        raise ValueError(f"{path}: the label {label!r} is not one of {', '.join(CLASSES + _CROWDS)}.")
    for number, name in enumerate(CLASSES):
        if label in (name, *_CROWDS):
            crowd = int(label in _CROWDS)
            yield {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": number, "iscrowd": crowd}


def citypersons_entries(prefix: str, tree: str) -> Iterator[Entry]:
    """Goes through ``<prefix>_{train,val}`` of a Cityscapes tree."""
    for split in ("train", "val"):
        folders = (os.path.join(tree, "leftImg8bit", split), os.path.join(tree, _KIND, split))
        metadata = {
            "thing_classes": list(CLASSES),
            "thing_dataset_id_to_contiguous_id": {number + 1: number for number in range(len(CLASSES))},
            "image_root": folders[0],
            "evaluator_type": "coco",
        }
        yield Entry(f"{prefix}_{split}", functools.partial(load_citypersons, *folders), metadata)
