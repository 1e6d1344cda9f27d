"""Scores of poses, and suppression of poses that resemble a better one (object keypoint similarity).

Shapes: R poses, K keypoints.
"""

from collections.abc import Sequence

import numpy as np

# Of COCO's 17 keypoints of a person, in the order of its annotation files.
COCO_SIGMAS = (0.026, 0.025, 0.025, 0.035, 0.035, *[0.079] * 2, *[0.072] * 2, *[0.062] * 2)
COCO_SIGMAS += (*[0.107] * 2, *[0.087] * 2, *[0.089] * 2)


def rescore(box_scores: np.ndarray, keypoint_scores: np.ndarray, threshold: float) -> np.ndarray:
    """Scores of boxes (R,), times the mean of the scores (R, K) of keypoints that are above the threshold."""
    counted = keypoint_scores > threshold
    sums = np.where(counted, keypoint_scores, 0).sum(axis=1)
    return box_scores * sums / np.maximum(counted.sum(axis=1), 1)


def similarity(pose: np.ndarray, others: np.ndarray, area: float, areas: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """The object keypoint similarity of a pose (K, 2) with others (R, K, 2), by the mean of two areas: (R,)."""
    squared = ((others - pose) ** 2).sum(axis=2)
    scale = (areas + area) / 2 + np.spacing(1)
    return np.exp(-squared / (2 * sigmas) ** 2 / scale[:, None] / 2).mean(axis=1)


def suppress(
    keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray, threshold: float, sigmas: Sequence[float] = ()
) -> list[int]:
    """The poses that stay, best first.

    Args:
        keypoints: (R, K, 2) x and y, pixels.
        scores: (R,).
        areas: (R,) of the persons, square pixels.
        threshold: A pose goes if it is more similar than this to a better one that stays.
        sigmas: One for each keypoint; COCO's by default.

    Raises:
        ValueError: There is not one for each keypoint.
    """
    spread = np.array(sigmas or COCO_SIGMAS)
    if len(keypoints) and len(spread) != keypoints.shape[1]:
        raise ValueError(
            f"There are {len(spread)} deviations for {keypoints.shape[1]} keypoints; TEST.KEYPOINT_OKS_SIGMAS has one "
            "for each keypoint, and is COCO's where it is empty."
        )
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        first, rest = int(order[0]), order[1:]
        kept.append(first)
        alike = similarity(keypoints[first], keypoints[rest], float(areas[first]), areas[rest], spread)
        order = rest[alike <= threshold]
    return kept
