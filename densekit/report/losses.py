"""The losses of an evaluation of instances, and the score at which the page begins.

As in "TIDE" (arXiv 2008.08115) each error has one reason. An object that is lost was found as another class, or with
too small an overlap of its own class, or not at all; what is found where nothing is annotated is background.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from densekit.metrics.detection_errors import FALSE, ImageMatches

__all__ = ["CLOSE", "best_threshold", "highest_score", "losses", "losses_data"]

CLOSE = 0.1  # overlap from which on a detection is meant for an object
_HALF = 0.5


def best_threshold(matches: Sequence[ImageMatches], thresholds: Sequence[float]) -> float:
    """The score of the best F1 of all classes together, the lowest of equals; 0.5 where nothing is right at any."""
    scores = []
    for threshold in thresholds:
        true, false, missed = np.sum([image.counts(threshold) for image in matches] or [(0, 0, 0)], axis=0)
        scores.append(2 * true / max(1, 2 * true + false + missed))
    return thresholds[int(np.argmax(scores))] if max(scores, default=0) > 0 else _HALF


def highest_score(matches: Sequence[ImageMatches]) -> float | None:
    """The highest score of any detection; None where there is none."""
    return max((float(image.scores.max()) for image in matches if len(image.scores)), default=None)


def losses(matches: Sequence[ImageMatches], num_classes: int, threshold: float) -> np.ndarray:
    """Counts what is lost at a score threshold, class by class.

    Args:
        matches: The images.
        num_classes: C.
        threshold: Detections of lower scores do not count.

    Returns:
        (C, 4) int64: objects of the class found as another one; found in the wrong place, with an overlap from
        :data:`CLOSE` to one half; not found at all; and detections as the class where nothing is annotated.
    """
    counts = np.zeros((num_classes, 4), dtype=np.int64)
    for image in matches:
        wrong = np.flatnonzero(image.shown(FALSE, threshold))
        lost = np.flatnonzero(image.missed(threshold))
        counted = np.flatnonzero(~image.ignored)
        same = image.classes[wrong][:, None] == image.true_classes[None]
        overlaps = image.overlaps[wrong]
        for column in lost:
            label = image.true_classes[column]
            as_other = (overlaps[:, column] >= _HALF) & ~same[:, column]
            nearby = (overlaps[:, column] >= CLOSE) & same[:, column]
            counts[label, 0 if as_other.any() else 1 if nearby.any() else 2] += 1
        if len(wrong):
            touched = overlaps[:, counted].max(axis=1) >= CLOSE if len(counted) else np.zeros(len(wrong), dtype=bool)
            np.add.at(counts[:, 3], image.classes[wrong[~touched]], 1)
    return counts


def losses_data(matches: Sequence[ImageMatches], num_classes: int, thresholds: Sequence[float]) -> dict[str, Any]:
    """Returns :func:`losses` at each threshold as plain numbers, for the page's script."""
    return {
        "thresholds": list(thresholds),
        "counts": [losses(matches, num_classes, each).tolist() for each in thresholds],
        "objects": np.sum(
            [np.bincount(image.true_classes[~image.ignored], minlength=num_classes) for image in matches]
            or [np.zeros(num_classes, dtype=np.int64)],
            axis=0,
        ).tolist(),
    }
