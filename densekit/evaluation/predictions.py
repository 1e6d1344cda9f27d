"""Detections as COCO results: small, plain and ready for a JSON file.

N: detections of one image. H, W: the original image's height and width in pixels.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import torch
from torch import Tensor

from densekit.d2.structures import BoxMode, Instances
from densekit.files.atomic import atomic_write

Results = list[dict[str, Any]]

logger = logging.getLogger(__name__)


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Encodes binary masks as COCO's run-length encoding.

    Args:
        masks: (N, H, W) bool or uint8, on any device.

    Returns:
        N dicts ``{"size": [H, W], "counts": text}``.
    """
    bits = masks.view(torch.uint8) if masks.dtype == torch.bool else masks.to(torch.uint8)
    # Run lengths go down the columns. A mask turned around by OpenCV, seen transposed, is the (H, W) array in Fortran
    # order that pycocotools wants, several times faster than numpy's own copy.
    pixels = bits.contiguous().cpu().numpy()
    encoded = [mask_utils.encode(cv2.transpose(mask).T) for mask in pixels]
    return [{"size": list(rle["size"]), "counts": rle["counts"].decode()} for rle in encoded]


def instances_to_coco_json(instances: Instances, img_id: int | str) -> list[dict[str, Any]]:
    """Returns one COCO result per detection; the instances are left as they are.

    Args:
        instances: ``pred_boxes`` (xyxy, original-image pixels), ``scores`` and ``pred_classes``; maybe ``pred_masks``
            (N, H, W) and ``pred_keypoints`` (N, K, 3), x and y in original-image pixels; maybe ``mask_scores``, where
            masks are ranked by other scores than boxes.
        img_id: The image's id in the data set.

    Returns:
        Dicts in the model's order, with ``category_id`` still the model's class and ``mask_score`` beside ``score``.
        Boxes are XYWH, keypoints are pixel indices, that is half a pixel less than the model's continuous coordinates.
    """
    if len(instances) == 0:
        return []
    boxes = BoxMode.convert(instances.pred_boxes.tensor.float().cpu(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    columns: dict[str, list[Any]] = {
        "category_id": instances.pred_classes.tolist(),
        "bbox": boxes.tolist(),
        "score": instances.scores.tolist(),
    }
    if instances.has("pred_masks"):
        masks = instances.pred_masks
        columns["segmentation"] = encode_masks(masks if isinstance(masks, Tensor) else masks.tensor)
        if instances.has("mask_scores"):
            columns["mask_score"] = instances.mask_scores.tolist()
    if instances.has("pred_keypoints"):
        keypoints = instances.pred_keypoints.float().cpu()
        half_pixel = keypoints.new_tensor([0.5, 0.5, 0.0])
        columns["keypoints"] = (keypoints - half_pixel).flatten(1).tolist()
    return [{"image_id": img_id, **dict(zip(columns, row))} for row in zip(*columns.values())]


def proposals_to_arrays(proposals: Instances) -> tuple[np.ndarray, np.ndarray]:
    """Returns the boxes (N, 4; xyxy, original-image pixels) and the objectness logits (N,) as numpy arrays."""
    boxes = proposals.proposal_boxes.tensor.float().cpu().numpy()
    return boxes, proposals.objectness_logits.float().cpu().numpy()


def read_results(path: Path, needed: Sequence[str] = ("image_id", "category_id", "bbox", "score")) -> Results:
    """Reads a results file in COCO's format.

    Args:
        path: Such as a ``coco_instances_results.json``.
        needed: What every result must have.

    Raises:
        ValueError: It is not one.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(results, list):
        raise ValueError(f"{path} is not a COCO results file: it holds a {type(results).__name__}, not a list.")
    for number, result in enumerate(results):
        missing = [name for name in needed if not isinstance(result, dict) or name not in result]
        if missing:
            raise ValueError(f"{path} is not a COCO results file: entry {number} has no {', '.join(missing)}.")
    return results


def write_json_list(path: Path, items: Iterable[Mapping[str, Any]]) -> None:
    """Writes results as a JSON list, one a line."""
    with atomic_write(path) as file:
        # One by one: json.dump would take the whole list through its slow, pure Python encoder.
        file.write("[" + ",\n".join(json.dumps(item, allow_nan=False) for item in items) + "]\n")
    logger.info(f"Predictions are in {path}")
