"""Reasons for an average precision that is zero or undefined, in words for the log."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from densekit.data.ground_truth import GroundTruth
from densekit.evaluation.coco_metrics import ANNOTATION_FIELD, CocoScores

_AREA_RANGES = {"APs": "below 32^2", "APm": "from 32^2 to 96^2", "APl": "above 96^2"}
_MOST_NAMES = 20


def explain(task: str, scores: CocoScores, truth: GroundTruth, predictions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns one sentence for each reason; an empty list where every number is above zero.

    Args:
        task: ``"bbox"``, ``"segm"``, ``"boundary"`` or ``"keypoints"``.
        scores: What was computed.
        truth: The ground truth it was computed on.
        predictions: COCO results in the data set's category ids.
    """
    present = _objects_per_category(task, truth)
    if not present:
        return [f"{task} AP is undefined: {_nothing_to_find(task, truth)}."]
    reasons = []
    if scores.metrics["AP"] == 0:
        reasons.append(f"{task} AP is 0: {_nothing_found(truth, predictions, present)}.")
    undefined = [name for name in _AREA_RANGES if math.isnan(scores.metrics.get(name, 0.0))]
    for name in undefined:
        reasons.append(f"{task} {name} is undefined: no object has an area {_AREA_RANGES[name]} pixels.")
    if len(truth.categories) > 1:
        absent = [name for key, name in truth.categories.items() if math.isnan(scores.per_category.get(key, math.nan))]
        if absent:
            reasons.append(f"{task} AP is undefined (nan) for classes without ground truth: {_listed(absent)}.")
        predicted = {result["category_id"] for result in predictions}
        silent = [truth.categories[key] for key in sorted(present) if key not in predicted]
        if silent and predicted:
            reasons.append(f"{task} AP is 0 for classes that were never predicted: {_listed(silent)}.")
    return reasons


def _objects_per_category(task: str, truth: GroundTruth) -> Counter[int]:
    """Counts what can be found: crowds and, for poses, persons without a visible keypoint do not count."""
    return Counter(
        annotation["category_id"]
        for annotation in truth.coco.anns.values()
        if ANNOTATION_FIELD[task] in annotation
        and not annotation["iscrowd"]
        and annotation["category_id"] in truth.categories
        and (task != "keypoints" or annotation["num_keypoints"] > 0)
    )


def _nothing_to_find(task: str, truth: GroundTruth) -> str:
    annotations = truth.coco.anns.values()
    if not annotations:
        return f"{truth.source} has no annotated objects"
    field = ANNOTATION_FIELD[task]
    if not any(field in annotation for annotation in annotations):
        return f"none of the {len(annotations)} annotations of {truth.source} has '{field}'"
    return (
        f"all {len(annotations)} annotations of {truth.source} are crowds, of unknown categories or without '{field}'"
    )


def _nothing_found(truth: GroundTruth, predictions: Sequence[Mapping[str, Any]], present: Counter[int]) -> str:
    if not predictions:
        return (
            f"there are no predictions at all for {sum(present.values())} objects. Check that weights were loaded, "
            "that the training was long enough, and that MODEL.ROI_HEADS.SCORE_THRESH_TEST is below the model's scores"
        )
    predicted = {result["category_id"] for result in predictions}
    if not predicted & present.keys():
        names = [truth.categories[key] for key in sorted(predicted)]
        return (
            f"the predicted classes ({_listed(names)}) never occur in the ground truth "
            f"({_listed([truth.categories[key] for key in sorted(present)])}); check the order of the classes"
        )
    best = max(result["score"] for result in predictions)
    return (
        f"none of the {len(predictions)} predictions (best score {best:.3f}) overlaps an object of its class by half; "
        "either the model has learnt too little, or the coordinates are not those of the original images"
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
