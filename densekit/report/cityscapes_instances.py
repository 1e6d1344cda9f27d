"""What a page needs of an evaluation of Cityscapes' instances, from the masks that the evaluator kept.

Fates of single masks are the benchmark's at an IoU of 0.5 (see :mod:`densekit.evaluation.cityscapes.instance_scores`):
what lies by more than half on void, on groups of its class or on objects too small to count, counts neither way.

K: values in an instance map. D: masks of a frame. G: objects of all classes in it, groups among them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from densekit.d2.data import MetadataCatalog
from densekit.data.cityscapes import CROWD_BELOW
from densekit.evaluation.cityscapes import CityscapesInstanceEvaluator
from densekit.evaluation.cityscapes.frames import (
    check_same_size,
    distinct,
    frame_of,
    ground_truth,
    read_label_map,
    threaded,
)
from densekit.evaluation.cityscapes.instance_scores import (
    OBJECT_LABELS,
    SMALLEST,
    VOID_LABELS,
    read_listing,
)
from densekit.inference.runs import encode_in_frame
from densekit.metrics.detection_errors import FALSE, IGNORED, ImageMatches, match_image
from densekit.report.instances import Entry, InstanceImage, Instances
from densekit.report.run_files import RunFiles

__all__ = ["read_cityscapes_instances"]

_NUMBERS = {label_id: number for number, label_id in enumerate(OBJECT_LABELS)}
_HALF = 0.5


def read_cityscapes_instances(run: RunFiles, records: Iterable[Mapping[str, Any]]) -> Instances | None:
    """Compares the kept masks with the data set's instance maps; None where there are none, or no maps.

    Raises:
        FileNotFoundError: A kept mask or list is missing.
        ValueError: A file is damaged or does not fit its frame.
    """
    folder = run.inference / CityscapesInstanceEvaluator.folder_name
    gt_dir = MetadataCatalog.get(run.dataset).get("gt_dir")
    truth = ground_truth(gt_dir, CityscapesInstanceEvaluator.truth_kind) if gt_dir and folder.is_dir() else {}
    images = {frame_of(record["file_name"]): str(record["file_name"]) for record in records}
    frames = [frame for frame in images if frame in truth]
    if not frames:
        return None
    listings = [folder / f"{frame}{CityscapesInstanceEvaluator.ending}" for frame in frames]
    missing = next((path for path in listings if not path.is_file()), None)
    if missing is not None:
        raise FileNotFoundError(
            f"{missing} is missing: a kept prediction. Evaluate anew with train_net.py --eval-only."
        )
    paths = [images[frame] for frame in frames]
    found = list(threaded(_read_frame, paths, listings, [truth[frame] for frame in frames]))
    return Instances(dict(OBJECT_LABELS), {}, found, "segm")


def _read_frame(path: str, listing: Path, truth_file: Path) -> InstanceImage:
    ids = read_label_map(truth_file)
    values, index, sizes = distinct(ids)
    masks, rows = [], []
    for listed in read_listing(listing):
        mask = read_label_map(listed.file)
        check_same_size(mask, ids, listed.file, truth_file)
        x, y, width, height = box = cv2.boundingRect(mask)
        window = np.s_[y : y + height, x : x + width]
        if width and height:  # an empty mask is no prediction
            rows.append(np.bincount(index[window][mask[window] != 0], minlength=len(values)))
            masks.append(_entry(mask != 0, listed.label_id, box) | {"score": listed.score})
    labels = np.where(values < CROWD_BELOW, values, values // CROWD_BELOW)
    is_object = np.isin(labels, list(OBJECT_LABELS))
    objects = [
        _object(ids, value, label) for value, label in zip(values[is_object].tolist(), labels[is_object].tolist())
    ]
    shared = np.array(rows, dtype=np.int64).reshape(len(rows), len(values))
    return InstanceImage(path, objects, masks, _match(masks, shared, values, sizes, labels, is_object))


def _object(ids: np.ndarray, value: int, label_id: int) -> Entry:
    mask = ids == value
    return _entry(mask, label_id, cv2.boundingRect(mask.astype(np.uint8))) | {"iscrowd": int(value < CROWD_BELOW)}


def _entry(mask: np.ndarray, label_id: int, box: Any) -> Entry:
    """A mask (H, W) bool in COCO's form."""
    [encoded] = encode_in_frame(torch.from_numpy(mask[None]), (0, 0), mask.shape)
    return {"category_id": label_id, "bbox": list(box), "segmentation": encoded}


def _match(
    masks: list[Entry], shared: np.ndarray, values: np.ndarray, sizes: np.ndarray, labels: np.ndarray, here: np.ndarray
) -> ImageMatches:
    """Judges the masks of a frame.

    Args:
        masks: D of them.
        shared: (D, K) pixels of the masks on each value.
        values: (K,) of the instance map.
        sizes: (K,) their pixels.
        labels: (K,) their label ids.
        here: (K,) whether a value is an object or a group, G of them.
    """
    is_group, is_small = values < CROWD_BELOW, sizes < SMALLEST
    areas = shared.sum(axis=1)[:, None]
    ignored = (is_group | is_small)[here]
    on = shared[:, here]
    overlaps = np.where(ignored, on / areas, on / (sizes[here] + areas - on))
    # The benchmark wants more than half; the matching takes half for enough.
    overlaps = np.where(overlaps > _HALF, overlaps, np.minimum(overlaps, np.nextafter(_HALF, 0)))
    label_ids = np.array([mask["category_id"] for mask in masks], dtype=np.int64)
    matches = match_image(
        np.array([mask["score"] for mask in masks], dtype=np.float64),
        _numbers(label_ids),
        _numbers(labels[here]),
        ignored,
        overlaps,
        most=len(masks),
    )
    own = labels == label_ids[:, None]  # (D, K)
    ignorable = shared * np.isin(values, VOID_LABELS) + shared * own * is_group + shared * own * is_small
    excused = (matches.fate == FALSE) & (ignorable.sum(axis=1) > _HALF * areas[:, 0])
    return replace(matches, fate=np.where(excused, IGNORED, matches.fate))


def _numbers(label_ids: np.ndarray) -> np.ndarray:
    return np.array([_NUMBERS[label_id] for label_id in label_ids.tolist()], dtype=np.int64)
