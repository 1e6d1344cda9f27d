"""COCO's average precision for boxes, masks and keypoints (cocodataset.org/#detection-eval).

Computed by faster-coco-eval, whose precision tables equal those of pycocotools' COCOeval to the last bit but one. The
averages over them are taken here, so that any limit of detections, and a model that detects nothing, work too.

"boundary" is the boundary AP of arXiv:2103.16562: a mask is as good as the smaller of its IoU and its boundary's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
from faster_coco_eval.core.coco import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster

from densekit.data.ground_truth import GroundTruth

# What an annotation must have to be evaluated, and what is taken from a prediction. The box gives a pose its area; a
# mask has its own.
ANNOTATION_FIELD = {"bbox": "bbox", "segm": "segmentation", "boundary": "segmentation", "keypoints": "keypoints"}
_PREDICTION_FIELDS = {
    "bbox": ("bbox",),
    "segm": ("segmentation",),
    "boundary": ("segmentation",),
    "keypoints": ("bbox", "keypoints"),
}
_AREAS = {"bbox": ("s", "m", "l"), "segm": ("s", "m", "l"), "boundary": ("s", "m", "l"), "keypoints": ("m", "l")}


@dataclass(frozen=True)
class CocoScores:
    """Average precisions from 0 to 100; NaN where there is no ground truth to find.

    Attributes:
        metrics: AP, AP50, AP75 and one AP per range of areas (APs, APm, APl; poses have no APs).
        per_category: Category id -> AP.
        curves: Category id -> (10, 101) precision at the IoU thresholds .5 to .95 and the recalls 0 to 1, of which
            ``per_category`` is the mean; -1 where there is no ground truth.
    """

    metrics: dict[str, float]
    per_category: dict[int, float]
    curves: dict[int, np.ndarray] = field(default_factory=dict)


def evaluate_coco(
    truth: GroundTruth,
    predictions: Sequence[Mapping[str, Any]],
    task: str,
    *,
    max_dets_per_image: int | None = None,
    kpt_oks_sigmas: Sequence[float] = (),
    image_ids: Iterable[Any] | None = None,
) -> CocoScores:
    """Evaluates one task.

    Args:
        truth: The ground truth; each annotation has what the task needs.
        predictions: COCO results in the data set's image and category ids. Masks are ranked by ``mask_score``
            where there is one, everything else by ``score``.
        task: ``"bbox"``, ``"segm"``, ``"boundary"`` or ``"keypoints"``.
        max_dets_per_image: Detections per image and category that count; by default 100, and always 20 for keypoints.
        kpt_oks_sigmas: Per keypoint, the deviation by which its distance is judged; by default those of COCO's persons.
        image_ids: The images to evaluate on; by default all.
    """
    categories = _annotated_categories(truth, task)
    if not categories:
        names = ("AP", "AP50", "AP75", *(f"AP{area}" for area in _AREAS[task]))
        return CocoScores(dict.fromkeys(names, float("nan")), {})
    evaluation = COCOeval_faster(truth.coco, _index_predictions(truth, predictions, task), task)
    parameters = evaluation.params
    parameters.catIds = categories
    if image_ids is not None:
        parameters.imgIds = [truth.image_numbers[key] for key in image_ids]
    if task == "keypoints":
        if len(kpt_oks_sigmas):
            parameters.kpt_oks_sigmas = np.asarray(kpt_oks_sigmas)
        _check_keypoint_counts(truth, predictions, len(parameters.kpt_oks_sigmas))
    else:
        parameters.maxDets = [max_dets_per_image or 100]
    evaluation.evaluate()
    evaluation.accumulate()
    # (IoU thresholds .5 to .95, recall thresholds, categories, area ranges with "all" first, limits of detections)
    precision = np.asarray(evaluation.eval["precision"])[..., -1]
    metrics = {
        "AP": _mean(precision[..., 0]),
        "AP50": _mean(precision[0, ..., 0]),
        "AP75": _mean(precision[5, ..., 0]),
        **{f"AP{area}": _mean(precision[..., k]) for k, area in enumerate(_AREAS[task], start=1)},
    }
    curves = {key: precision[:, :, k, 0] for k, key in enumerate(parameters.catIds)}
    return CocoScores(metrics, {key: _mean(curve) for key, curve in curves.items()}, curves)


def _mean(precision: np.ndarray) -> float:
    """The mean of what is defined (COCO marks the rest with -1), in percent."""
    defined = precision[precision > -1]
    return float(defined.mean() * 100) if defined.size else float("nan")


def _index_predictions(truth: GroundTruth, predictions: Sequence[Mapping[str, Any]], task: str) -> COCO:
    """Returns the index that COCO's loadRes would build; a list without predictions is an index too."""
    fields = ("category_id", "score", *_PREDICTION_FIELDS[task])
    detections = [
        {"id": number, "image_id": truth.image_numbers[result["image_id"]], **{name: result[name] for name in fields}}
        for number, result in enumerate(predictions, start=1)
    ]
    for detection, result in zip(detections, predictions):
        if task in ("segm", "boundary"):
            # One by one: pycocotools counts a list's entries in eight bits.
            area = float(mask_utils.area(detection["segmentation"]))
            detection["score"] = result.get("mask_score", result["score"])
        else:
            area = detection["bbox"][2] * detection["bbox"][3]
        detection.update(area=area, iscrowd=0)
    dataset = truth.coco.dataset
    return COCO({"images": dataset["images"], "annotations": detections, "categories": dataset["categories"]})


def _annotated_categories(truth: GroundTruth, task: str) -> list[int]:
    """Returns the categories to average over, ascending; none where no annotation has what the task needs.

    Raises:
        ValueError: Only some annotations have it.
    """
    field = ANNOTATION_FIELD[task]
    annotations = [a for a in truth.coco.anns.values() if a["category_id"] in truth.categories]
    with_field = {annotation["category_id"] for annotation in annotations if field in annotation}
    # Keypoints belong to some categories; boxes and masks to all.
    evaluated = with_field if task == "keypoints" else set(truth.categories)
    for annotation in annotations:
        if with_field and annotation["category_id"] in evaluated and field not in annotation:
            raise ValueError(
                f"{truth.source}: annotation {annotation['id']} has no '{field}', but others have. Task '{task}' can "
                "only be evaluated when all have it."
            )
    return sorted(evaluated) if with_field else []


def _check_keypoint_counts(truth: GroundTruth, predictions: Sequence[Mapping[str, Any]], sigmas: int) -> None:
    """Refuses predictions, annotations and sigmas that do not speak of the same keypoints."""
    annotated = {len(a["keypoints"]) // 3 for a in truth.coco.anns.values() if "keypoints" in a}
    predicted = {len(result["keypoints"]) // 3 for result in predictions}
    if not annotated | predicted <= {sigmas}:
        raise ValueError(
            f"Keypoints per object: {sorted(annotated)} in {truth.source}, {sorted(predicted)} in the predictions, "
            f"{sigmas} OKS sigmas. Set MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS and TEST.KEYPOINT_OKS_SIGMAS to fit the "
            "data (COCO's own 17 sigmas are the default)."
        )
