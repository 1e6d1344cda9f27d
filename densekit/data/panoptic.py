"""COCO panoptic data sets (arXiv 1801.00868), in the two forms that systems train on.

Standard: segments with one numbering of all classes. Separated, for systems that join a detector and a semantic head
(Panoptic FPN, arXiv 1901.02446): objects with their own numbering, and a label map in which class 0 stands for every
thing and 1..S are the stuff. Label maps are taken from the panoptic PNGs themselves; where the folder that Detectron2's
preparation makes of them exists, it is used instead.
"""

import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

from densekit.d2.data import MetadataCatalog
from densekit.data.coco import load_coco_json
from densekit.data.coco_meta import THINGS_COLOUR
from densekit.data.labels import IGNORE, MAX_CLASSES, read_values
from densekit.data.panoptic_json import PanopticFile, read_panoptic_file
from densekit.data.pictures import image_size, list_pictures
from densekit.data.regions import in_threads, outline_regions
from densekit.data.registry import Entry, Records

__all__ = [
    "coco_panoptic_entries",
    "load_coco_panoptic",
    "load_coco_panoptic_separated",
    "separated_entry",
    "with_label_map",
]


def load_coco_panoptic(panoptic_json: str, image_root: str, panoptic_root: str, dataset_name: str) -> Records:
    """Reads the standard form; the classes are those of the data set's metadata.

    Returns:
        ``file_name, image_id, pan_seg_file_name`` and ``segments_info`` (``id, category_id`` contiguous, ``isthing``,
        ``iscrowd``, ``area``, ``bbox`` as in the file).

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: Something in it is wrong.
    """
    file = read_panoptic_file(panoptic_json)
    metadata = MetadataCatalog.get(dataset_name)
    things, stuff = metadata.thing_dataset_id_to_contiguous_id, metadata.stuff_dataset_id_to_contiguous_id
    _check_categories(file, dataset_name, things.keys() | stuff.keys())
    return [
        {
            "file_name": os.path.join(image_root, file.images[image_id]["file_name"]),
            "image_id": image_id,
            "pan_seg_file_name": os.path.join(panoptic_root, annotation["file_name"]),
            "segments_info": contiguous_segments(annotation["segments_info"], things, stuff),
        }
        for image_id, annotation in file.annotations.items()
    ]


def with_label_map(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record with a label map: where it names none, the one that its panoptic PNG and segments make."""
    if "sem_seg_file_name" in record or "pan_seg_file_name" not in record:
        return dict(record)
    values = {segment["id"]: segment["category_id"] for segment in record["segments_info"]}
    return {**record, "sem_seg_file_name": record["pan_seg_file_name"], "sem_seg_values": {0: IGNORE, **values}}


def contiguous_segments(
    segments: list[dict[str, Any]], things: Mapping[int, int], stuff: Mapping[int, int]
) -> list[dict[str, Any]]:
    """Returns segments with contiguous class indices and ``isthing``."""
    return [
        segment
        | {
            "category_id": things.get(segment["category_id"], stuff.get(segment["category_id"])),
            "isthing": segment["category_id"] in things,
        }
        for segment in segments
    ]


def load_coco_panoptic_separated(
    panoptic_json: str,
    image_root: str,
    panoptic_root: str,
    dataset_name: str,
    instances_json: str | None = None,
    sem_seg_root: str | None = None,
) -> Records:
    """Reads the separated form.

    Args:
        panoptic_json: Annotation file.
        image_root: Folder of the images.
        panoptic_root: Folder of the panoptic PNGs.
        dataset_name: Registered name. Classes are entered in its metadata, or must agree with what is there.
        instances_json: COCO file of the objects, if there is one; otherwise they are outlined from the PNGs.
        sem_seg_root: Folder of label maps made from the PNGs, which is used if it exists.

    Returns:
        ``file_name, image_id, height, width, annotations, sem_seg_file_name`` and, for maps that are panoptic PNGs,
        ``sem_seg_values``.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: Something in one is wrong, or an image has objects and no panoptic annotation.
    """
    file = read_panoptic_file(panoptic_json)
    things, stuff = _separated_classes(file, dataset_name)
    if instances_json is None:
        records = _outlined(file, image_root, panoptic_root, things)
    else:
        records = load_coco_json(instances_json, image_root, dataset_name)
    for record in records:
        if record["image_id"] not in file.annotations:
            raise ValueError(f"{panoptic_json} has no annotation of image {record['image_id']} of {instances_json}.")
        record.update(_stuff_labels(file, record["image_id"], stuff, panoptic_root, sem_seg_root))
    return records


def load_coco_stuff(
    panoptic_json: str, image_root: str, panoptic_root: str, dataset_name: str, sem_seg_root: str
) -> Records:
    """Reads the label maps of the separated form alone: ``file_name, sem_seg_file_name`` (and ``sem_seg_values``)."""
    if os.path.isdir(sem_seg_root):
        images = list_pictures(image_root)
        maps = list_pictures(sem_seg_root, (".png",))
        return [{"file_name": images[key], "sem_seg_file_name": maps[key]} for key in maps if key in images]
    file = read_panoptic_file(panoptic_json)
    _, stuff = _separated_classes(file, dataset_name)
    return [
        {"file_name": os.path.join(image_root, file.images[image_id]["file_name"])}
        | _stuff_labels(file, image_id, stuff, panoptic_root, None)
        for image_id in file.annotations
    ]


def _stuff_labels(
    file: PanopticFile, image_id: Any, stuff: Mapping[int, int], panoptic_root: str, sem_seg_root: str | None
) -> dict[str, Any]:
    annotation = file.annotations[image_id]
    if sem_seg_root is not None:
        made = os.path.join(sem_seg_root, annotation["file_name"])
        if os.path.isfile(made):
            return {"sem_seg_file_name": made}
    values = {segment["id"]: stuff.get(segment["category_id"], 0) for segment in annotation["segments_info"]}
    return {
        "sem_seg_file_name": os.path.join(panoptic_root, annotation["file_name"]),
        "sem_seg_values": {0: IGNORE, **values},
    }


def _outlined(file: PanopticFile, image_root: str, panoptic_root: str, things: Mapping[int, int]) -> Records:
    def record(image_id: Any) -> dict[str, Any]:
        annotation = file.annotations[image_id]
        picture = os.path.join(image_root, file.images[image_id]["file_name"])
        path = os.path.join(panoptic_root, annotation["file_name"])
        ids = read_values(path)
        height, width = image_size(picture)
        if ids.shape != (height, width):
            raise ValueError(
                f"{path} is {ids.shape[1]} x {ids.shape[0]} (width x height), and its image {picture} is {width} x "
                f"{height}. They must have one size."
            )
        objects = {s["id"]: s for s in annotation["segments_info"] if s["category_id"] in things}
        annotations = [
            region
            | {
                "id": segment_id,
                "category_id": things[objects[segment_id]["category_id"]],
                "iscrowd": objects[segment_id].get("iscrowd", 0),
            }
            for segment_id, region in outline_regions(ids, objects).items()
            if region["segmentation"]
        ]
        return {
            "file_name": picture,
            "image_id": image_id,
            "height": height,
            "width": width,
            "annotations": annotations,
        }

    return in_threads(record, list(file.annotations))


def _separated_classes(file: PanopticFile, dataset_name: str) -> tuple[dict[int, int], dict[int, int]]:
    """Returns the maps from category ids to things and to stuff, entered in the metadata if it has none."""
    metadata = MetadataCatalog.get(dataset_name)
    things, stuff = metadata.get("thing_dataset_id_to_contiguous_id"), metadata.get("stuff_dataset_id_to_contiguous_id")
    if things is not None and stuff is not None:
        _check_categories(file, dataset_name, things.keys() | stuff.keys())
        return things, stuff
    if len(file.stuff) >= MAX_CLASSES:
        raise ValueError(
            f"{file.path} has {len(file.stuff)} classes of stuff; label maps can tell {MAX_CLASSES} apart."
        )
    things = {category["id"]: number for number, category in enumerate(file.things)}
    stuff = {category["id"]: number for number, category in enumerate(file.stuff, start=1)} | {0: 0}
    metadata.set(
        thing_classes=[category["name"] for category in file.things],
        thing_dataset_id_to_contiguous_id=things,
        stuff_classes=["things", *(category["name"] for category in file.stuff)],
        stuff_dataset_id_to_contiguous_id=stuff,
    )
    if all("color" in category for category in file.categories.values()):
        metadata.set(
            thing_colors=[list(category["color"]) for category in file.things],
            stuff_colors=[THINGS_COLOUR, *(list(category["color"]) for category in file.stuff)],
        )
    return things, stuff


def _check_categories(file: PanopticFile, dataset_name: str, known: set[int]) -> None:
    unknown = sorted(file.categories.keys() - known)
    if unknown:
        named = ", ".join(f"{i} {file.categories[i]['name']!r}" for i in unknown[:5])
        raise ValueError(
            f"{file.path} contradicts the metadata of data set {dataset_name!r}: it has the categories {named}, which "
            "are not among its classes. Register the file under a name of its own."
        )


def separated_entry(
    name: str,
    image_root: str,
    panoptic_root: str,
    panoptic_json: str,
    instances_json: str | None,
    sem_seg_root: str | None,
    metadata: Mapping[str, Any],
) -> Entry:
    """A data set of the separated form."""
    files = {
        "panoptic_root": panoptic_root,
        "image_root": image_root,
        "panoptic_json": panoptic_json,
        "sem_seg_root": sem_seg_root,
        "json_file": instances_json,
    }
    load = functools.partial(
        load_coco_panoptic_separated, panoptic_json, image_root, panoptic_root, name, instances_json, sem_seg_root
    )
    known = {key: value for key, value in files.items() if value is not None}
    return Entry(name, load, {**known, "evaluator_type": "coco_panoptic_seg", "ignore_label": IGNORE, **metadata})


def coco_panoptic_entries(
    name: str,
    image_root: str,
    panoptic_root: str,
    panoptic_json: str,
    sem_seg_root: str,
    instances_json: str,
    standard: Mapping[str, Any],
    separated: Mapping[str, Any],
) -> Iterator[Entry]:
    """Goes through ``name`` (standard), ``name_separated`` and ``name_stuffonly``.

    Args:
        name: Such as ``coco_2017_train_panoptic``.
        image_root: Folder of the images.
        panoptic_root: Folder of the panoptic PNGs.
        panoptic_json: Annotation file.
        sem_seg_root: Folder of label maps made from the PNGs; need not exist.
        instances_json: COCO file of the objects.
        standard: Classes in one numbering.
        separated: Classes in two numberings.
    """
    files: dict[str, Any] = {
        "panoptic_root": panoptic_root,
        "image_root": image_root,
        "panoptic_json": panoptic_json,
        "json_file": instances_json,
        "evaluator_type": "coco_panoptic_seg",
        "ignore_label": IGNORE,
        "label_divisor": 1000,
    }
    load = functools.partial(load_coco_panoptic, panoptic_json, image_root, panoptic_root, name)
    yield Entry(name, load, {**files, **standard})
    roots = (image_root, panoptic_root, panoptic_json)
    yield separated_entry(f"{name}_separated", *roots, instances_json, sem_seg_root, separated)
    files = {
        "sem_seg_root": sem_seg_root,
        "image_root": image_root,
        "evaluator_type": "sem_seg",
        "ignore_label": IGNORE,
    }
    only = f"{name}_stuffonly"
    load = functools.partial(load_coco_stuff, panoptic_json, image_root, panoptic_root, only, sem_seg_root)
    yield Entry(only, load, {**files, **separated})
