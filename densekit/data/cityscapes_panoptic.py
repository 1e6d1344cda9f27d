"""Cityscapes' panoptic labels: as ``csCreatePanopticImgs`` writes them, or as objects beside a map of stuff."""

import functools
import os
from collections.abc import Iterable, Iterator
from typing import Any

from densekit.data.cityscapes import (
    CLASSES,
    THINGS,
    cityscapes_metadata,
    list_frames,
    load_cityscapes_instances,
    train_labels,
)
from densekit.data.coco_meta import THINGS_COLOUR
from densekit.data.labels import IGNORE
from densekit.data.panoptic import contiguous_segments
from densekit.data.panoptic_json import read_panoptic_file
from densekit.data.registry import Entry, Records

__all__ = ["cityscapes_panoptic_entries", "load_cityscapes_panoptic", "load_cityscapes_panoptic_separated"]

_STUFF = [label for label in CLASSES if not label.hasInstances]
_MAKE = "python datasets/prepare_cityscapes.py"


def load_cityscapes_panoptic(image_dir: str, panoptic_root: str, panoptic_json: str, gt_dir: str) -> Records:
    """Reads the standard form, with trainIds as the one numbering of all classes.

    Returns:
        ``file_name, image_id`` (city_sequence_frame)``, sem_seg_file_name, pan_seg_file_name`` and ``segments_info``.

    Raises:
        FileNotFoundError: A file does not exist; the message says how to make it.
        ValueError: Something in the JSON is wrong.
    """
    if not os.path.isfile(panoptic_json):
        tree = os.path.dirname(os.path.dirname(os.path.abspath(panoptic_json)))
        raise FileNotFoundError(
            f"{panoptic_json} does not exist: panoptic files are made from the download with `{_MAKE} --root {tree}`."
        )
    file = read_panoptic_file(panoptic_json)
    things, stuff = panoptic_ids()
    frames = {frame_id(frame.image): frame for frame in list_frames(image_dir, gt_dir)}
    records = []
    for image_id, annotation in file.annotations.items():
        if image_id not in frames:
            raise FileNotFoundError(f"{panoptic_json} annotates {image_id!r}, and {image_dir} has no such picture.")
        frame = frames[image_id]
        records.append(
            {
                "file_name": frame.image,
                "image_id": image_id,
                "pan_seg_file_name": os.path.join(panoptic_root, annotation["file_name"]),
                "segments_info": contiguous_segments(annotation["segments_info"], things, stuff),
                **train_labels(frame),
            }
        )
    return records


def load_cityscapes_panoptic_separated(image_dir: str, gt_dir: str) -> Records:
    """Reads the form for systems that join a detector and a semantic head; nothing needs to be prepared.

    Returns:
        The records of :func:`~densekit.data.cityscapes.load_cityscapes_instances` under the image ids of the panoptic
        files, with a label map in which 0 stands for every thing and 1..11 are the stuff.

    Raises:
        FileNotFoundError, ValueError: As there.
    """
    values = _separated_values()
    records = load_cityscapes_instances(image_dir, gt_dir)
    for record, frame in zip(records, list_frames(image_dir, gt_dir)):
        record["image_id"] = frame_id(frame.image)
        record["sem_seg_file_name"] = frame.need("_labelIds.png")
        record["sem_seg_values"] = values
    return records


def frame_id(image: str) -> str:
    """Returns city_sequence_frame of a file name."""
    return "_".join(os.path.basename(image).split("_")[:3])


def panoptic_ids() -> tuple[dict[int, int], dict[int, int]]:
    """Returns the maps from label ids of things and of stuff to trainIds."""
    return {label.id: label.trainId for label in THINGS}, {label.id: label.trainId for label in _STUFF}


def _separated_values() -> dict[int, int]:
    numbers = dict.fromkeys((label.id for label in THINGS), 0) | {
        label.id: i for i, label in enumerate(_STUFF, start=1)
    }
    return dict.fromkeys(range(max(numbers) + 1), IGNORE) | numbers


def _standard_metadata() -> dict[str, Any]:
    names, colours = [label.name for label in CLASSES], [label.color for label in CLASSES]
    things, stuff = panoptic_ids()
    return {
        "thing_classes": names,
        "thing_colors": colours,
        "stuff_classes": names,
        "stuff_colors": colours,
        "thing_dataset_id_to_contiguous_id": things,
        "stuff_dataset_id_to_contiguous_id": stuff,
    }


def _separated_metadata() -> dict[str, Any]:
    return cityscapes_metadata() | {
        "stuff_classes": ["things", *(label.name for label in _STUFF)],
        "stuff_colors": [tuple(THINGS_COLOUR), *(label.color for label in _STUFF)],
        "stuff_dataset_id_to_contiguous_id": {label.id: i for i, label in enumerate(_STUFF, start=1)} | {0: 0},
    }


def cityscapes_panoptic_entries(prefix: str, tree: str, splits: Iterable[str]) -> Iterator[Entry]:
    """Goes through ``<prefix>_<split>`` and ``<prefix>_<split>_separated`` of the fine labels.

    Args:
        prefix: Such as ``cityscapes_fine_panoptic``.
        tree: Folder with ``leftImg8bit`` and ``gtFine``.
        splits: Names of folders.
    """
    for split in splits:
        images, labels = os.path.join(tree, f"leftImg8bit/{split}"), os.path.join(tree, f"gtFine/{split}")
        panoptic = os.path.join(tree, f"gtFine/cityscapes_panoptic_{split}")
        files: dict[str, Any] = {
            "panoptic_root": panoptic,
            "image_root": images,
            "panoptic_json": f"{panoptic}.json",
            "gt_dir": labels,
            "evaluator_type": "cityscapes_panoptic_seg",
            "ignore_label": IGNORE,
            "label_divisor": 1000,
        }
        load = functools.partial(load_cityscapes_panoptic, images, panoptic, f"{panoptic}.json", labels)
        yield Entry(f"{prefix}_{split}", load, files | _standard_metadata())
        load = functools.partial(load_cityscapes_panoptic_separated, images, labels)
        yield Entry(f"{prefix}_{split}_separated", load, files | _separated_metadata())
