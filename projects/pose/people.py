"""Persons of an image: from its annotations, from a file of results, or found by a detector."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densekit.checkpoint import Checkpointer
from densekit.d2.config import CfgNode
from densekit.d2.data import transforms as T
from densekit.d2.modeling import build_model
from densekit.d2.structures import BoxMode
from densekit.evaluation.predictions import read_results

GROUND_TRUTH = "ground_truth"
DETECTOR = "detector"

# (R, 4) boxes xywh in pixels of the image, and (R,) scores.
People = tuple[np.ndarray, np.ndarray]


def annotated_people(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The annotations with a labelled keypoint and a box of some size; crowds are left out."""
    return [
        annotation
        for annotation in record.get("annotations", ())
        if not annotation.get("iscrowd", 0)
        and any(v > 0 for v in annotation.get("keypoints", ())[2::3])
        and min(box_of(annotation)[2:]) > 0
    ]


def box_of(annotation: Mapping[str, Any]) -> np.ndarray:
    """The box (4,) xywh of an annotation."""
    box = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYWH_ABS)
    return np.asarray(box, dtype=np.float64)


class PeopleOfResults:
    """The boxes of a file of COCO results.

    Args:
        path: Such as a detector's ``coco_instances_results.json``.
        threshold: Boxes of a lower score are left out.
        category_id: Of persons in that file.

    Raises:
        FileNotFoundError, ValueError: There is no such file, or it is not one of results.
    """

    def __init__(self, path: str, *, threshold: float, category_id: int) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"MODEL.POSE.BOXES {path!r} does not exist. Give a file of COCO results with boxes, '{GROUND_TRUTH}' "
                f"for the annotated ones, or '{DETECTOR}' with MODEL.POSE.DETECTOR."
            )
        self._boxes: dict[Any, list[list[float]]] = defaultdict(list)
        for result in read_results(Path(path)):
            if result["category_id"] == category_id and result["score"] >= threshold and min(result["bbox"][2:]) > 0:
                self._boxes[result["image_id"]].append([*result["bbox"], result["score"]])
        if not self._boxes:
            raise ValueError(
                f"MODEL.POSE.BOXES {path} has no box of category {category_id} with a score of {threshold}."
            )

    def __call__(self, record: Mapping[str, Any]) -> People:
        rows = np.array(self._boxes.get(record["image_id"], ()), dtype=np.float64).reshape(-1, 5)
        return rows[:, :4], rows[:, 4]


def people_of_annotations(record: Mapping[str, Any]) -> People:
    """The annotated persons with the score 1."""
    boxes = np.array([box_of(annotation) for annotation in annotated_people(record)], dtype=np.float64).reshape(-1, 4)
    return boxes, np.ones(len(boxes))


class PersonDetector:
    """A detector of its own configuration and weights, which is no part of the pose model and does not learn.

    Args:
        cfg: The detector's configuration.
        weights: Its weights.
        person: Number of its class of persons.
        threshold: Boxes of a lower score are left out.
        image_format: Order of the channels of the images that it gets.
    """

    def __init__(self, cfg: CfgNode, weights: str, *, person: int, threshold: float, image_format: str) -> None:
        self._model = build_model(cfg).eval()
        Checkpointer(self._model, min_coverage=cfg.MODEL.WEIGHTS_MIN_COVERAGE).load(weights)
        self._person, self._threshold = person, threshold
        self._swapped = image_format != cfg.INPUT.FORMAT
        size = cfg.INPUT.MIN_SIZE_TEST
        self._resize = T.ResizeShortestEdge([size, size], cfg.INPUT.MAX_SIZE_TEST)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> People:
        """The persons on an image (H, W, 3) uint8."""
        height, width = image.shape[:2]
        pixels = image[:, :, ::-1] if self._swapped else image
        pixels = self._resize.get_transform(pixels).apply_image(np.ascontiguousarray(pixels))
        planes: Tensor = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        (output,) = self._model([{"image": planes, "height": height, "width": width}])
        found = output["instances"]
        chosen = (found.pred_classes == self._person) & (found.scores >= self._threshold)
        boxes = found.pred_boxes.tensor[chosen].double().cpu().numpy()
        boxes[:, 2:] -= boxes[:, :2]
        solid = (boxes[:, 2:] > 0).all(axis=1)
        return boxes[solid], found.scores[chosen].double().cpu().numpy()[solid]
