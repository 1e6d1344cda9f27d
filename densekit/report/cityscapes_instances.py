"""Page data of an evaluation of Cityscapes' instances, from the masks that the evaluator kept.

Fates of single masks are the benchmark's at an IoU of 0.5 (see :mod:`densekit.evaluation.cityscapes.instance_scores`):
what lies by more than half on void, on groups of its class or on objects too small to count, counts neither way.

K: values in an instance map. D: masks of a frame. G: objects of all classes in it, groups among them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from densekit.d2.data import MetadataCatalog
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
    OVERLAPS,
    SMALLEST,
    VOID_LABELS,
    Outcome,
    area_below,
    average_frames,
    judge_frame,
    percentages,
    read_listing,
    recall_curves,
)
from densekit.files.cityscapes_files import FIRST_INSTANCE, labels_of
from densekit.inference.rle import encode_in_frame
from densekit.metrics.detection_errors import FALSE, IGNORED, ImageMatches, match_image
from densekit.report.instance_page import Curve, Entry, InstanceImage, Instances, TaskScores
from densekit.report.run_files import RunFiles

__all__ = ["benchmark_scores", "read_cityscapes_instances"]

_NUMBERS = {label_id: number for number, label_id in enumerate(OBJECT_LABELS)}
_HALF = 0.5
_SHOWN_IOUS = (0, 5)  # .50 and .75 of the benchmark's ten
_RECALLS = np.linspace(0, 1, 101)
_VISIBLE = 5e-4  # of a chart's height; a class of a whole split has tens of thousands of points
_CURVE_NOTE = (
    "The benchmark's precision at every score, not interpolated: the area below is the AP. The means over classes and "
    "IoUs are drawn at 101 recalls."
)


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
    images_found, outcomes = [image for image, _ in found], [outcome for _, outcome in found]
    return Instances(dict(OBJECT_LABELS), {"segm": benchmark_scores(outcomes)}, images_found, "segm", _CURVE_NOTE)


def benchmark_scores(frames: Sequence[Mapping[int, Outcome]]) -> TaskScores:
    """The benchmark's numbers, which are areas under lines through points at all scores, and those lines."""
    curves, sampled = {}, []
    for number, label_id in enumerate(OBJECT_LABELS):
        lines = recall_curves([frame[label_id] for frame in frames])
        if lines is not None:
            shown = [_curve(lines[k]) for k in _SHOWN_IOUS]
            sampled.append([*(_sampled([lines[k]]) for k in _SHOWN_IOUS), _sampled(lines)])
            curves[str(number)] = [*shown, sampled[-1][-1]]
    if sampled:
        curves["all"] = [_mean(group) for group in zip(*sampled)]
    return TaskScores(percentages(average_frames(frames)), curves)


def _curve(line: np.ndarray) -> Curve:
    """A line (P, 2) with its fall to 0 at the highest recall, without the points that nobody could see it bend at."""
    end = line[-1, 0]
    whole = np.concatenate([line, [[end, 0.0], [1.0, 0.0]]]) if end < 1 else line
    recall, precision = cv2.approxPolyDP(whole.astype(np.float32)[:, None], _VISIBLE, closed=False)[:, 0].T
    return Curve(100 * area_below(line), precision, recall)


def _sampled(lines: Sequence[np.ndarray]) -> Curve:
    """The mean of lines at equal steps of recall; beyond the highest recall of a line its precision is 0."""
    rows = [np.interp(_RECALLS, line[:, 0], line[:, 1], right=0.0) for line in lines]
    return Curve(100 * float(np.mean([area_below(line) for line in lines])), np.mean(rows, axis=0))


def _mean(curves: Sequence[Curve]) -> Curve:
    area = float(np.mean([curve.area for curve in curves]))
    return Curve(area, np.mean([curve.precision for curve in curves], axis=0))


def _read_frame(path: str, listing: Path, truth_file: Path) -> tuple[InstanceImage, dict[int, Outcome]]:
    ids = read_label_map(truth_file)
    values, index, sizes = distinct(ids)
    masks, rows, used = [], [], []
    for listed in read_listing(listing):
        mask = read_label_map(listed.file)
        check_same_size(mask, ids, listed.file, truth_file)
        x, y, width, height = box = cv2.boundingRect(mask)
        window = np.s_[y : y + height, x : x + width]
        if width and height:  # an empty mask is no prediction
            rows.append(np.bincount(index[window][mask[window] != 0], minlength=len(values)))
            used.append(listed)
            masks.append(_entry(mask != 0, listed.label_id, box) | {"score": listed.score})
    labels = labels_of(values)
    is_object = np.isin(labels, list(OBJECT_LABELS))
    objects = [
        _object(ids, value, label) for value, label in zip(values[is_object].tolist(), labels[is_object].tolist())
    ]
    shared = np.array(rows, dtype=np.int64).reshape(len(rows), len(values))
    image = InstanceImage(path, objects, masks, _match(masks, shared, values, sizes, labels, is_object))
    return image, judge_frame(used, shared, values, sizes, OVERLAPS, SMALLEST)


def _object(ids: np.ndarray, value: int, label_id: int) -> Entry:
    mask = ids == value
    return _entry(mask, label_id, cv2.boundingRect(mask.astype(np.uint8))) | {"iscrowd": int(value < FIRST_INSTANCE)}


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
    is_group, is_small = values < FIRST_INSTANCE, sizes < SMALLEST
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
