"""Counts of a data set's label maps, image by image: scores and support of classes, confusion, scores of each image.

C: classes. N: images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from densekit.metrics.contours import contour_f
from densekit.metrics.semantic_scores import SemanticScores, semantic_scores


@dataclass(frozen=True)
class ImageScores:
    """Scores of one image from 0 to 1; NaN where nothing is annotated, or boundaries are not judged.

    Attributes:
        mean_iou: Mean IoU of the classes annotated in the image.
        pixel_accuracy: Share of the annotated pixels that are right.
        boundary_f: Mean boundary F1 of the classes that have a boundary in either map.
        classes: Numbers of those that are annotated or predicted.
        lost: Annotated and predicted number of the largest confusion; C as predicted number stands for no class.
            None where every pixel is right.
        lost_share: Share of the annotated pixels that it has.
    """

    mean_iou: float
    pixel_accuracy: float
    boundary_f: float
    classes: Sequence[int]
    lost: tuple[int, int] | None
    lost_share: float


class SemanticTally:
    """Sums of the counts of images, in the order in which they are added.

    Attributes:
        counts: (C + 1, C) pixels, as of :func:`~densekit.metrics.semantic_scores.count_pixels`.
        images: (C,) how many images show each class.
    """

    def __init__(self, num_classes: int) -> None:
        """Begins with nothing."""
        self.counts = np.zeros((num_classes + 1, num_classes), dtype=np.int64)
        self.images = np.zeros(num_classes, dtype=np.int64)
        self._f1_sums = np.zeros(num_classes)
        self._f1_images = np.zeros(num_classes, dtype=np.int64)
        self._has_contour = np.zeros(num_classes, dtype=bool)

    def add(self, counts: np.ndarray, contours: np.ndarray | None = None) -> ImageScores:
        """Takes in one image and returns its scores.

        Args:
            counts: (C + 1, C), as of :func:`~densekit.metrics.semantic_scores.count_pixels`.
            contours: (4, C), as of :func:`~densekit.metrics.contours.count_contours`; None without boundaries.
        """
        self.counts += counts
        annotated = counts.sum(axis=0)
        self.images += annotated > 0
        boundary = float("nan")
        if contours is not None:
            scores = contour_f(contours)
            defined = ~np.isnan(scores)
            self._f1_sums[defined] += scores[defined]
            self._f1_images += defined
            self._has_contour |= contours[0] > 0
            boundary = _mean(scores)
        scores_of_image = semantic_scores(counts)
        wrong = counts.copy()
        np.fill_diagonal(wrong, 0)
        row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
        return ImageScores(
            scores_of_image.mean_iou,
            scores_of_image.pixel_accuracy,
            boundary,
            np.flatnonzero(annotated + counts[:-1].sum(axis=1)).tolist(),
            (int(column), int(row)) if wrong.any() else None,
            float(wrong[row, column] / annotated.sum()) if annotated.any() else float("nan"),
        )

    @property
    def scores(self) -> SemanticScores:
        """Scores of all images together."""
        return semantic_scores(self.counts)

    @property
    def pixels(self) -> np.ndarray:
        """Annotated pixels (C,) of each class."""
        return self.counts.sum(axis=0)

    @property
    def confusion(self) -> np.ndarray:
        """Pixels (C, C + 1), annotated by predicted class; the last column has those with no predicted class."""
        return self.counts.T

    @property
    def boundary_f(self) -> tuple[np.ndarray, float]:
        """Boundary F1 of each class (C,), and their mean.

        A class's is the mean over the images in which it has a boundary in either map, NaN where no image has an
        annotated one.
        """
        defined = self._has_contour
        means = np.divide(self._f1_sums, self._f1_images, out=np.full(len(defined), np.nan), where=defined)
        return means, _mean(means)


def _mean(values: np.ndarray) -> float:
    """The mean of what is defined."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
