"""Boundary F1 of classes ("What is a good evaluation measure for semantic segmentation?", Csurka et al., BMVC 2013).

A class's boundary in a map are its pixels that have a pixel of something else above, below, left or right of them; the
image's own border is none. Precision is the share of the predicted boundary that lies within a tolerance, 0.75 % of the
image's diagonal, of the true one of the same class, and recall the share of the true boundary that lies so near to the
predicted one. Their harmonic mean is the class's F1 in the image, and the mean over images that of the class.

C: classes. P: pixels on boundaries.
"""

import numpy as np

TOLERANCE = 0.0075  # of the image's diagonal


def contour_tolerance(height: int, width: int, share: float = TOLERANCE) -> float:
    """Returns how many pixels apart boundaries may lie in an image of this size; at least 1."""
    return max(1.0, share * float(np.hypot(height, width)))


def count_contours(
    predicted: np.ndarray, truth: np.ndarray, num_classes: int, ignore_label: int, share: float = TOLERANCE
) -> np.ndarray:
    """Counts the pixels on the boundaries of each class in an image, and those that are met.

    Pixels that do not count are so in both maps, and a border to them is a boundary like any other: a prediction may do
    there what it likes.

    Args:
        predicted: (H, W) class of each pixel; other numbers, such as those for no class, have no boundary themselves.
        truth: (H, W) annotated class of each pixel.
        num_classes: C.
        ignore_label: Annotated value of the pixels that do not count.
        share: The tolerance as a share of the image's diagonal.

    Returns:
        (4, C) int64: true boundary, the part of it that is met; predicted boundary, the part of it that is right.
    """
    ignored = truth == ignore_label
    maps = (np.where(ignored, num_classes, labels.astype(np.int64)) for labels in (truth, predicted))
    true, found = (_contour(labels, num_classes) for labels in maps)
    height, width = truth.shape
    steps = _steps(contour_tolerance(height, width, share))
    met, right = (_near(points, others, (height, width), steps) for points, others in ((true, found), (found, true)))
    rows = (true, true[met], found, found[right])
    return np.stack([np.bincount(points[:, 2], minlength=num_classes) for points in rows])


def contour_f(counts: np.ndarray) -> np.ndarray:
    """Returns the F1 (C,) of each class in one image from its counts (4, C).

    It is 0 where only one of the maps has a boundary of the class, and NaN where none has.
    """
    true, met, found, right = counts.astype(np.float64)
    both = (true > 0) & (found > 0)
    recall = np.divide(met, true, out=np.zeros(len(true)), where=both)
    precision = np.divide(right, found, out=np.zeros(len(true)), where=both)
    total = precision + recall
    score = np.divide(2 * precision * recall, total, out=np.zeros(len(true)), where=total > 0)
    score[(true == 0) & (found == 0)] = np.nan
    return score


def _contour(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns row, column and class (P, 3) of the pixels with another label beside them."""
    edge = np.zeros(labels.shape, dtype=bool)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = labels[one] != labels[other]
        edge[one] |= differ
        edge[other] |= differ
    edge &= (labels >= 0) & (labels < num_classes)
    rows, columns = np.nonzero(edge)
    return np.stack([rows, columns, labels[rows, columns]], axis=1)


def _steps(reach: float) -> np.ndarray:
    """Returns all (row, column) steps (S, 2) that are at most ``reach`` pixels long, the shortest first."""
    most = int(reach)
    steps = np.mgrid[-most : most + 1, -most : most + 1].reshape(2, -1).T
    lengths = (steps**2).sum(axis=1)
    return steps[np.argsort(lengths, kind="stable")][: (lengths <= reach**2).sum()]


def _near(points: np.ndarray, others: np.ndarray, shape: tuple[int, int], steps: np.ndarray) -> np.ndarray:
    """Marks (P,) the points from which a step leads to another of the same class.

    Most points find one within a few steps and are done, which is faster than a map of distances for each class.
    """
    most = int(steps.max())
    width = shape[1] + 2 * most
    drawn = np.full((shape[0] + 2 * most) * width, -1, dtype=np.int16)  # small, as it is read at random
    drawn[(others[:, 0] + most) * width + others[:, 1] + most] = others[:, 2]
    near = np.zeros(len(points), dtype=bool)
    left = np.arange(len(points))
    places, classes = (points[:, 0] + most) * width + points[:, 1] + most, points[:, 2].astype(np.int16)
    for step in (steps @ [width, 1]).tolist():
        hit = drawn[places + step] == classes
        if hit.any():
            near[left[hit]] = True
            left, places, classes = left[~hit], places[~hit], classes[~hit]
    return near
