"""Page data of an evaluation of boxes, masks or keypoints, beside the evaluator's own numbers.

The ground truth and the results file go through the evaluator's code again, which gives the precision of every class
at every recall. Fates of single detections are those at an IoU of 0.5, of masks where there are masks, else of boxes.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils

from densekit.data.ground_truth import GroundTruth
from densekit.evaluation.coco_metrics import CocoScores, evaluate_coco
from densekit.metrics.detection_errors import TRUE, ImageMatches, calibration_bins, confusion, match_image
from densekit.report.confusion import confusion_data
from densekit.report.losses import best_threshold, losses_data
from densekit.report.run_files import RunFiles

__all__ = ["Curve", "Entry", "InstanceImage", "Instances", "TaskScores", "instances_data", "read_instances"]

THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(1, 20))
_BINS = 10
_FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
_SHOWN_IOUS = (0, 5)  # .50 and .75 of COCO's ten
_DIGITS = 4
_CURVE_NOTE = "COCO's interpolated precision; for all classes, the mean over the classes."

Entry = dict[str, Any]


@dataclass(frozen=True)
class InstanceImage:
    """One image with what is annotated, what was predicted, and what became of it.

    Attributes:
        path: its file.
        truth: annotations of COCO.
        found: results of COCO.
        matches: in the order of ``found`` and ``truth``.
    """

    path: str
    truth: list[Entry]
    found: list[Entry]
    matches: ImageMatches


@dataclass(frozen=True)
class Curve:
    """Precision by recall.

    Attributes:
        area: the average precision, 0 to 100.
        precision: (P,) from 0 to 1.
        recall: (P,) from 0 to 1, never falling; None for equal steps from 0 to 1.
    """

    area: float
    precision: np.ndarray
    recall: np.ndarray | None = None


@dataclass(frozen=True)
class TaskScores:
    """The evaluator's numbers and curves of a task.

    Attributes:
        metrics: as the evaluator names them, from 0 to 100; NaN where there is nothing to find.
        curves: class number, or "all" -> the curves at an IoU of .50, of .75, and on average over .50 to .95.
    """

    metrics: dict[str, float]
    curves: dict[str, list[Curve]]


@dataclass(frozen=True)
class Instances:
    """An evaluation of instances.

    Attributes:
        classes: category id -> name, in the order of the classes' numbers on the page.
        scores: task -> its numbers and curves.
        images: all of them, in the order of the data set.
        matched_by: ``segm`` or ``bbox``, whose overlaps decide the matches.
        curve_note: how the curves are drawn, a sentence.
    """

    classes: dict[int, str]
    scores: dict[str, TaskScores]
    images: list[InstanceImage]
    matched_by: str
    curve_note: str = _CURVE_NOTE

    @functools.cached_property
    def best_threshold(self) -> float:
        """The score at which F1 of all classes together is best."""
        return best_threshold([image.matches for image in self.images], THRESHOLDS)


def read_instances(run: RunFiles, records: Sequence[Entry], results: Sequence[Entry]) -> Instances:
    """Evaluates the results once more.

    Args:
        run: the run; its config says the deviations of the keypoints.
        records: of the data set.
        results: the content of ``coco_instances_results.json``.

    Raises:
        ValueError: The results are of other images or classes than the data set's.
    """
    truth = GroundTruth.of(run.dataset)
    unknown = {result["image_id"] for result in results} - truth.image_numbers.keys()
    if unknown:
        raise ValueError(
            f"{run.inference} has predictions of {len(unknown)} images that {truth.source} does not have, one is "
            f"{unknown.pop()!r}. Was the data set changed?"
        )
    strange = {result["category_id"] for result in results} - truth.categories.keys()
    if strange:
        raise ValueError(
            f"{run.inference} has predictions of the categories {sorted(strange)}; {truth.source} has not."
        )
    tasks = [task for task, field in _FIELDS.items() if results and field in results[0]] or ["bbox"]
    sigmas = run.config.get("TEST", {}).get("KEYPOINT_OKS_SIGMAS", ())
    scores = {}
    if truth.annotated:
        for task in tasks:
            scores[task] = _task_scores(evaluate_coco(truth, results, task, kpt_oks_sigmas=sigmas), truth.categories)
    by = "segm" if "segm" in tasks else "bbox"
    return Instances(truth.categories, scores, _images(records, truth, results, by), by)


def _images(records: Sequence[Entry], truth: GroundTruth, results: Sequence[Entry], by: str) -> list[InstanceImage]:
    found: dict[Any, list[Entry]] = {}
    for image_id, group in groupby(results, key=lambda result: result["image_id"]):
        found.setdefault(image_id, []).extend(group)
    annotated: dict[int, list[Entry]] = {}
    for annotation in truth.coco.anns.values():
        if annotation["category_id"] in truth.categories:
            annotated.setdefault(annotation["image_id"], []).append(annotation)
    images = []
    for record in records:
        key = record["image_id"]
        objects, detections = annotated.get(truth.image_numbers[key], []), found.get(key, [])
        matches = _match(truth, objects, detections, by)
        images.append(InstanceImage(record["file_name"], objects, detections, matches))
    return images


def _match(truth: GroundTruth, objects: list[Entry], detections: list[Entry], by: str) -> ImageMatches:
    numbers = {key: number for number, key in enumerate(truth.categories)}
    crowd = np.array([bool(entry["iscrowd"]) for entry in objects], dtype=bool)
    masks = by == "segm" and all("segmentation" in entry for entry in objects)
    overlaps = np.zeros((len(detections), len(objects)))
    if detections and objects:
        left: Any = [entry["segmentation"] for entry in detections] if masks else _boxes(detections)
        right: Any = [truth.coco.annToRLE(entry) for entry in objects] if masks else _boxes(objects)
        overlaps = np.asarray(mask_utils.iou(left, right, crowd.astype(np.uint8).tolist()))
    name = "mask_score" if masks and all("mask_score" in entry for entry in detections) else "score"
    return match_image(
        np.array([entry[name] for entry in detections], dtype=np.float64),
        np.array([numbers[entry["category_id"]] for entry in detections], dtype=np.int64),
        np.array([numbers[entry["category_id"]] for entry in objects], dtype=np.int64),
        crowd,
        overlaps,
    )


def _boxes(entries: list[Entry]) -> np.ndarray:
    return np.array([entry["bbox"] for entry in entries], dtype=np.float64)


def instances_data(instances: Instances) -> dict[str, Any]:
    """Returns what the page's script draws: curves, matrices and bins, in plain numbers."""
    matches = [image.matches for image in instances.images]
    count = len(instances.classes)
    return {
        "recall": {task: _drawn(scores.curves) for task, scores in instances.scores.items()},
        "confusion": confusion_data([confusion(matches, count, each) for each in THRESHOLDS], THRESHOLDS),
        "calibration": _calibration(matches, count),
        "losses": losses_data(matches, count, THRESHOLDS),
    }


def _task_scores(scores: CocoScores, classes: Mapping[int, str]) -> TaskScores:
    metrics = dict(scores.metrics)
    if len(classes) > 1:
        metrics |= {f"AP-{name}": scores.per_category.get(key, math.nan) for key, name in classes.items()}
    tables = {str(number): scores.curves.get(key) for number, key in enumerate(classes)}
    defined = {number: table for number, table in tables.items() if table is not None and table.min() > -1}
    if defined:
        defined["all"] = np.mean(list(defined.values()), axis=0)
    return TaskScores(metrics, {key: _three(table) for key, table in defined.items()})


def _three(table: np.ndarray) -> list[Curve]:
    rows = (*(table[k] for k in _SHOWN_IOUS), table.mean(axis=0))
    return [Curve(100 * float(row.mean()), row) for row in rows]


def _drawn(curves: Mapping[str, Sequence[Curve]]) -> dict[str, list[dict[str, Any]]]:
    return {key: [_plain(curve) for curve in group] for key, group in curves.items()}


def _plain(curve: Curve) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "area": round(curve.area, _DIGITS), "precision": np.round(curve.precision, _DIGITS).tolist()
    }  # fmt: skip
    return plain if curve.recall is None else plain | {"recall": np.round(curve.recall, _DIGITS).tolist()}


def _calibration(matches: Sequence[ImageMatches], count: int) -> dict[str, list[list[float]]]:
    """Class number, or "all" -> (bins, 3): detections, sum of their scores, how many are true."""
    counted = [image.fate >= 0 for image in matches]
    scores, labels, true = (
        np.concatenate([part[keep] for part, keep in zip(parts, counted)] or [np.zeros(0)])
        for parts in (
            [m.scores for m in matches], [m.classes for m in matches], [m.fate == TRUE for m in matches]
        )
    )  # fmt: skip
    chosen = {"all": np.ones(len(scores), dtype=bool)}
    chosen |= {str(number): labels == number for number in range(count) if (labels == number).any()}
    return {
        key: np.round(calibration_bins(scores[keep], true[keep], _BINS), _DIGITS).tolist()
        for key, keep in chosen.items()
    }
