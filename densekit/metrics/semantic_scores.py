"""Scores of semantic segmentation from counts of pixels (the four of "Fully Convolutional Networks", arXiv:1605.06211).

Boundary IoU is that of arXiv:2103.16562, with the pixels of the whole data set in its counts, as for IoU itself.

C: classes.
"""

from dataclasses import dataclass

import numpy as np

from densekit.metrics.boundary import boundary_pixels

NOTHING = -1  # in a predicted map: a pixel that no class is predicted for


@dataclass(frozen=True)
class SemanticScores:
    """Scores from 0 to 1; NaN where a class, or everything, does not occur in the annotation.

    Attributes:
        iou: (C,) intersection over union.
        accuracy: (C,) share of a class's pixels that were found.
        mean_iou: Mean of ``iou`` over the classes that occur.
        frequency_weighted_iou: Mean of ``iou`` weighted by the pixels of each class.
        mean_accuracy: Mean of ``accuracy``.
        pixel_accuracy: Share of all annotated pixels that are right.
    """

    iou: np.ndarray
    accuracy: np.ndarray
    mean_iou: float
    frequency_weighted_iou: float
    mean_accuracy: float
    pixel_accuracy: float


def count_pixels(predicted: np.ndarray, truth: np.ndarray, num_classes: int, ignore_label: int) -> np.ndarray:
    """Counts each pair of a predicted and an annotated class in an image.

    Args:
        predicted: (H, W) class of each pixel, or :data:`NOTHING`.
        truth: (H, W) annotated class of each pixel.
        num_classes: C.
        ignore_label: Annotated value of the pixels that do not count.

    Returns:
        (C + 1, C) int64, predicted class by annotated class; the last row has the pixels with no predicted class, which
        are missed as those with a wrong one are.

    Raises:
        ValueError: The maps differ in size, or hold a value that is no class.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"The annotated map is {truth.shape} (height, width), the predicted one {predicted.shape}.")
    counted = truth != ignore_label
    classes, annotated = predicted[counted].astype(np.int64), truth[counted].astype(np.int64)
    for name, values, lowest in (("annotated", annotated, 0), ("predicted", classes, NOTHING)):
        if values.size and not lowest <= values.min() <= values.max() < num_classes:
            strange = np.unique(values[(values < lowest) | (values >= num_classes)])[:5].tolist()
            raise ValueError(
                f"The {name} map holds the values {strange}; there are {num_classes} classes, 0 to {num_classes - 1}, "
                f"and {ignore_label} for pixels that do not count."
            )
    rows = np.where(classes == NOTHING, num_classes, classes)
    pairs = np.bincount(rows * num_classes + annotated, minlength=(num_classes + 1) * num_classes)
    return pairs.reshape(num_classes + 1, num_classes)


def count_boundaries(predicted: np.ndarray, truth: np.ndarray, num_classes: int, ignore_label: int) -> np.ndarray:
    """Counts the boundary pixels of each class in an image.

    A border to pixels that do not count is a boundary like any other; those pixels themselves count on neither side.

    Args:
        predicted: (H, W) class of each pixel, or :data:`NOTHING`.
        truth: (H, W) uint8 or uint16 annotated class of each pixel.
        num_classes: C.
        ignore_label: Annotated value of the pixels that do not count.

    Returns:
        (3, C) int64: boundary pixels in both maps, in the annotation, in the prediction.
    """
    counted = truth != ignore_label
    predicted = np.where(predicted == NOTHING, num_classes, predicted).astype(np.uint16)
    in_truth, in_prediction = boundary_pixels(truth) & counted, boundary_pixels(predicted) & counted
    both = in_truth & in_prediction & (truth == predicted)
    parts = (truth[both], truth[in_truth], predicted[in_prediction])
    return np.stack([np.bincount(part, minlength=num_classes)[:num_classes] for part in parts])


def semantic_scores(counts: np.ndarray) -> SemanticScores:
    """Returns the scores of summed counts (C + 1, C), as of :func:`count_pixels`."""
    right, annotated, predicted = counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)[:-1]
    iou = _share(right, annotated + predicted - right, annotated > 0)
    accuracy = _share(right, annotated, annotated > 0)
    total = annotated.sum()
    return SemanticScores(
        iou,
        accuracy,
        _mean(iou),
        float(np.nansum(iou * annotated) / total) if total else float("nan"),
        _mean(accuracy),
        float(right.sum() / total) if total else float("nan"),
    )


def boundary_iou(counts: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the boundary IoU of each class (C,) and their mean from summed counts (3, C); NaN as for IoU."""
    both, truth, predicted = counts
    iou = _share(both, truth + predicted - both, truth > 0)
    return iou, _mean(iou)


def _share(part: np.ndarray, whole: np.ndarray, defined: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=defined)


def _mean(values: np.ndarray) -> float:
    """The mean of what is defined."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
