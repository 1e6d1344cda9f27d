"""Average recall: the share of objects that class-agnostic proposals cover, as Detectron2 reports it.

Each object is given at most one proposal, greedily by overlap; recall is averaged over the overlaps .5, .55 ... .95. It
is a close relative of COCO's own average recall, not the same number.

P: proposals of one image. G: its objects.
"""

import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densekit.d2.structures import Boxes, BoxMode, pairwise_iou
from densekit.data.ground_truth import GroundTruth
from densekit.files.atomic import atomic_write

_LIMITS = (100, 1000)
_AREAS = {"": (0.0, 1e5**2), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e5**2)}
RECALL_THRESHOLDS = torch.arange(0.5, 0.95 + 1e-5, 0.05, dtype=torch.float32)

logger = logging.getLogger(__name__)


def evaluate_box_proposals(truth: GroundTruth, predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns ``AR@100``, ``ARs@100`` ... ``ARl@1000``, from 0 to 100; NaN where there is no such object.

    Args:
        truth: The ground truth. Crowds are not asked for.
        predictions: Per image ``"image_id"`` and ``"proposals"``, boxes (P, 4; xyxy) and logits (P,) as arrays.
    """
    covered: dict[str, list[np.ndarray]] = {f"AR{area}@{limit}": [] for limit in _LIMITS for area in _AREAS}
    without = 0
    for prediction in predictions:
        objects = truth.coco.imgToAnns[truth.image_numbers[prediction["image_id"]]]
        objects = [annotation for annotation in objects if not annotation["iscrowd"]]
        if not objects:
            continue
        boxes, logits = prediction["proposals"]
        if not len(boxes):
            without += 1
            continue
        iou = _sorted_iou(boxes, logits, objects)
        areas = np.asarray([annotation["area"] for annotation in objects])
        for limit in _LIMITS:
            for area, (low, high) in _AREAS.items():
                asked = (areas >= low) & (areas <= high)
                covered[f"AR{area}@{limit}"].append(_greedy_cover(iou[:limit, asked]))
    if without:
        logger.warning(f"{without} images with objects have no proposals and are left out of the average recall.")
    return {name: _average_recall(parts) for name, parts in covered.items()}


def proposal_recall(
    truth: GroundTruth, predictions: Sequence[Mapping[str, Any]], limits: Sequence[int] = (100, 300, 1000, 2000)
) -> dict[int, np.ndarray]:
    """Computes the share of objects that the best proposals cover, at each overlap by itself.

    Args:
        truth: The ground truth. Crowds are not asked for.
        predictions: As for :func:`evaluate_box_proposals`; in images without proposals all objects are missed.
        limits: Numbers of proposals of an image that are looked at.

    Returns:
        Limit -> recall (10,) from 0 to 100 at :data:`RECALL_THRESHOLDS`; nothing where there are no objects.
    """
    covered: dict[int, list[np.ndarray]] = {limit: [] for limit in limits}
    for prediction in predictions:
        objects = truth.coco.imgToAnns[truth.image_numbers[prediction["image_id"]]]
        objects = [annotation for annotation in objects if not annotation["iscrowd"]]
        if objects:
            boxes, logits = prediction["proposals"]
            iou = _sorted_iou(boxes, logits, objects)
            for limit, parts in covered.items():
                parts.append(_greedy_cover(iou[:limit]))
    thresholds = RECALL_THRESHOLDS.numpy()
    return {
        limit: (np.concatenate(parts)[:, None] >= thresholds).mean(axis=0) * 100
        for limit, parts in covered.items()
        if parts
    }


def save_box_proposals(path: Path, predictions: Sequence[Mapping[str, Any]]) -> None:
    """Writes the proposals in the form that ``DATASETS.PROPOSAL_FILES_*`` reads.

    That form is Detectron2's, a pickle of lists of arrays, so that the file feeds Fast R-CNN on either host.
    """
    content = {
        "boxes": [prediction["proposals"][0] for prediction in predictions],
        "objectness_logits": [prediction["proposals"][1] for prediction in predictions],
        "ids": [prediction["image_id"] for prediction in predictions],
        "bbox_mode": BoxMode.XYXY_ABS.value,
    }
    with atomic_write(path, "wb") as file:
        pickle.dump(content, file)


def _sorted_iou(boxes: np.ndarray, logits: np.ndarray, objects: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Returns the overlaps (P, G), best proposal first."""
    order = torch.from_numpy(logits).sort(descending=True).indices
    wanted = torch.tensor([annotation["bbox"] for annotation in objects], dtype=torch.float32)
    wanted = BoxMode.convert(wanted, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    overlaps: Tensor = pairwise_iou(Boxes(torch.from_numpy(boxes)[order]), Boxes(wanted))
    return overlaps.numpy()


def _greedy_cover(iou: np.ndarray) -> np.ndarray:
    """Gives the best free pair of proposal and object to each other until one side runs out.

    Args:
        iou: (P, G); not changed.

    Returns:
        (G,) the overlaps of the pairs; 0 for objects left without a proposal. Not in the objects' order.
    """
    free = iou.T.copy()  # (G, P)
    covered = np.zeros(len(free), dtype=np.float32)
    for step in range(min(free.shape)):
        target, proposal = divmod(int(free.argmax()), free.shape[1])
        covered[step] = free[target, proposal]
        free[target] = -1
        free[:, proposal] = -1
    return covered


def _average_recall(parts: Sequence[np.ndarray]) -> float:
    overlaps = torch.from_numpy(np.concatenate(parts)) if parts else torch.zeros(0)
    if not len(overlaps):
        return float("nan")
    recalls = (overlaps[:, None] >= RECALL_THRESHOLDS).float().sum(0) / len(overlaps)
    return float(recalls.mean()) * 100
