"""Stages of R-CNN (arXiv 1311.2524) that learn from features: their scale, the SVMs, the corrections of boxes.

G: objects of a picture, R: proposals, K: classes, D: features. Pictures are gone through one after another, and none is
held but for its objects.
"""

import logging
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from .box_ridge import BoxRidge
from .feature_store import Regions
from .region_svm import HardNegativeMiner, SVMSettings

__all__ = ["add_to_ridge", "feature_scale", "learn_svms", "objects_of_classes"]

logger = logging.getLogger(__name__)

_NORM = 20.0  # mean length that features are scaled to
_NEVER = -20.0  # bias of a class that cannot be learned, whose score is then 0
_NEGATIVE_BELOW = 0.3  # overlap of a negative with every object of the class
_CORRECTED_ABOVE = 0.6  # overlap of a proposal that learns to be corrected


def feature_scale(pictures: Iterable[Regions]) -> float:
    """The factor that gives features a mean length of 20, for which the paper's C and lambda are meant."""
    norms = np.concatenate([np.linalg.norm(regions.features, axis=1) for regions in pictures])
    return _NORM / max(float(norms.mean()), 1e-12) if len(norms) else 1.0


def objects_of_classes(pictures: Iterable[Regions], num_classes: int) -> list[np.ndarray]:
    """The features (P, D) of the objects of each class, which are its positives."""
    found: list[list[np.ndarray]] = [[] for _ in range(num_classes)]
    for regions in pictures:
        for index, category in enumerate(regions.classes):
            found[category].append(regions.features[index])
    return [np.stack(parts) if parts else np.zeros((0, 0), np.float32) for parts in found]


def learn_svms(
    pictures: Iterable[Regions], positives: Sequence[np.ndarray], scale: float, settings: SVMSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Learns one SVM per class, all in one pass over the pictures.

    Args:
        pictures: Whose proposals with an overlap of less than 0.3 with each object of a class are its negatives.
        positives: As of :func:`objects_of_classes`.
        scale: Of the features.
        settings: Of the machines.

    Returns:
        Weights (K, D) and biases (K,), float32; a class without objects or without negatives never scores.
    """
    miners = {k: HardNegativeMiner(found * scale, settings) for k, found in enumerate(positives) if len(found)}
    size = 0
    for regions in pictures:
        count, size = len(regions.classes), regions.features.shape[1]
        proposals, features = regions.boxes[count:], regions.features[count:] * scale
        overlaps = _overlaps(proposals, regions.boxes[:count])
        for k, miner in miners.items():
            near = overlaps[:, regions.classes == k].max(axis=1, initial=0.0)
            miner.visit(features[near < _NEGATIVE_BELOW])
    weights = np.zeros((len(positives), size), np.float32)
    biases = np.full(len(positives), _NEVER, np.float32)
    machines = {k: miner.finish() for k, miner in miners.items()}
    for k, machine in machines.items():
        if machine is not None:
            weights[k], biases[k] = machine
    untaught = [k for k in range(len(positives)) if machines.get(k) is None]
    if untaught:
        logger.warning(f"Classes {untaught} have no objects or no background in the training data; none will be found.")
    return weights, biases


def add_to_ridge(
    ridges: Sequence[BoxRidge], regions: Regions, scale: float, targets: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Gives each proposal to the ridge of its class if it overlaps an object by more than 0.6.

    Args:
        ridges: Per class.
        regions: Of a picture.
        scale: Of the features.
        targets: From boxes and their objects, (N, 4) each, to what moves the ones onto the others.
    """
    count = len(regions.classes)
    if not count or count == len(regions.boxes):
        return
    objects, proposals = (torch.from_numpy(part) for part in (regions.boxes[:count], regions.boxes[count:]))
    overlap, which = torch.from_numpy(_overlaps(regions.boxes[count:], regions.boxes[:count])).max(dim=1)
    features = torch.from_numpy(regions.features[count:]) * scale
    classes = torch.from_numpy(regions.classes)[which]
    for category in classes.unique().tolist():
        taken = (classes == category) & (overlap > _CORRECTED_ABOVE)
        ridges[category].add(features[taken], targets(proposals[taken], objects[which[taken]]))


def _overlaps(boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """IoU (R, G)."""
    return box_iou(torch.from_numpy(boxes), torch.from_numpy(objects)).numpy()
