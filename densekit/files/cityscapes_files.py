"""Panoptic files of Cityscapes from instance ids, as cityscapesScripts' csCreatePanopticImgs makes them.

Needs neither a host nor torch: the generator of street scenes writes the same files.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from cityscapesscripts.helpers.labels import Label, id2label
from cityscapesscripts.helpers.labels import labels as LABELS

from densekit.files.panoptic_png import id2rgb

__all__ = [
    "FIRST_INSTANCE",
    "label_of",
    "labels_of",
    "panoptic_colours",
    "panoptic_document",
    "panoptic_folder",
    "panoptic_png_name",
    "panoptic_records",
]

Json = dict[str, Any]

_SOURCE = "_instanceIds.png"
FIRST_INSTANCE = 1000  # ids from here on are label id * 1000 + number, lower ones labels; of things, they are groups


def label_of(instance_id: int) -> int:
    """Returns the label id that an instance id has in it."""
    return int(labels_of(np.asarray(instance_id)))


def labels_of(ids: np.ndarray) -> np.ndarray:
    """Returns the label id of each instance id, in the same shape."""
    return np.where(ids < FIRST_INSTANCE, ids, ids // FIRST_INSTANCE)


def panoptic_folder(labels: Path, split: str) -> Path:
    """Returns where the PNGs of a split are; their JSON is beside it.

    Args:
        labels: ``gtFine``.
        split: Such as ``val``.
    """
    return labels / f"cityscapes_panoptic_{split}"


def panoptic_png_name(source: Path) -> str:
    """Returns the name of the panoptic PNG of a ``<frame>_gtFine_instanceIds.png``."""
    return source.name.replace(_SOURCE, "_panoptic.png")


def panoptic_records(source: Path, ids: np.ndarray) -> tuple[Json, Json]:
    """Returns the entries of a frame under ``images`` and ``annotations``.

    Args:
        source: Its ``_instanceIds.png``.
        ids: (H, W) what that holds.

    Raises:
        ValueError: An id is no label of Cityscapes.
    """
    image_id = source.name.removesuffix(f"_gtFine{_SOURCE}")
    file_name = source.name.replace(_SOURCE, "_leftImg8bit.png")
    image = {"id": image_id, "width": ids.shape[1], "height": ids.shape[0], "file_name": file_name}
    segments = _segments(source, ids)
    return image, {"image_id": image_id, "file_name": panoptic_png_name(source), "segments_info": segments}


def panoptic_colours(ids: np.ndarray, annotation: Json) -> np.ndarray:
    """Returns the panoptic PNG's pixels (H, W, 3) in RGB: the ids of the segments, and 0 for what does not count."""
    kept = [segment["id"] for segment in annotation["segments_info"]]
    table = np.zeros(int(ids.max()) + 1, dtype=np.int32)
    table[kept] = kept
    return id2rgb(table[ids])


def panoptic_document(frames: Iterable[tuple[Json, Json]]) -> Json:
    """Returns the JSON of a split from the entries of its frames."""
    frames = list(frames)
    return {
        "images": [image for image, _ in frames],
        "annotations": [annotation for _, annotation in frames],
        "categories": [_category(label) for label in LABELS if not label.ignoreInEval],
    }


def _segments(source: Path, ids: np.ndarray) -> list[Json]:
    """The entry of every segment that the benchmark counts, by id."""
    from scipy import ndimage  # slow to import, and few runs make such files

    counts = np.bincount(ids.ravel())
    segments = []
    for value, window in enumerate(ndimage.find_objects(ids + 1)):  # 0 would be background
        if window is None:
            continue
        label = id2label.get(label_of(value))
        if label is None:
            raise ValueError(f"{source} has the instance id {value}, which is no label of Cityscapes. Unpack it anew.")
        if label.ignoreInEval:
            continue
        rows, columns = window
        segments.append(
            {
                "id": value,
                "category_id": label.id,
                "area": int(counts[value]),
                "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
                "iscrowd": int(value < FIRST_INSTANCE and label.hasInstances),
            }
        )
    return segments


def _category(label: Label) -> Json:
    return {
        "id": label.id,
        "name": label.name,
        "color": label.color,
        "supercategory": label.category,
        "isthing": int(label.hasInstances),
    }
