"""Fate of each detection and of each object, for people to read rather than for a ranking.

Objects and detections of one class match as in COCO's evaluation at an IoU of 0.5 (cocodataset.org/#detection-eval):
by falling score, each detection takes the free object that it overlaps most; what lies on a crowd or another ignored
object counts neither way. Since a detection can take nothing from one of a higher score, its fate is the same at every
score threshold, and an object is found up to the score of the detection that took it.

D, G: detections and objects of one image, C: classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

__all__ = ["FALSE", "IGNORED", "TRUE", "ImageMatches", "calibration_bins", "confusion", "match_image"]

TRUE, FALSE, IGNORED = 1, 0, -1
_IOU = 0.5


@dataclass(frozen=True)
class ImageMatches:
    """The detections and objects of one image.

    Attributes:
        scores: (D,) of the detections.
        classes: (D,) their class, 0 to C - 1.
        fate: (D,) ``TRUE``, ``FALSE`` or ``IGNORED``.
        true_classes: (G,) class of the objects.
        found_score: (G,) score of the detection that took the object; -1 where none did.
        ignored: (G,) whether it does not count: crowds.
        overlaps: (D, G) IoU; with a crowd, the share of the detection that lies on it.
    """

    scores: np.ndarray
    classes: np.ndarray
    fate: np.ndarray
    true_classes: np.ndarray
    found_score: np.ndarray
    ignored: np.ndarray
    overlaps: np.ndarray

    def counts(self, threshold: float) -> tuple[int, int, int]:
        """Returns how many detections are true and false and how many objects are missed at a score threshold."""
        true, false = self.shown(TRUE, threshold), self.shown(FALSE, threshold)
        return int(true.sum()), int(false.sum()), int(self.missed(threshold).sum())

    def shown(self, fate: int, threshold: float) -> np.ndarray:
        """Returns a mask (D,) of the detections with this fate that reach a score threshold."""
        return (self.fate == fate) & (self.scores >= threshold)

    def missed(self, threshold: float) -> np.ndarray:
        """Returns a mask (G,) of the objects that count and are not found at a score threshold."""
        return ~self.ignored & ((self.found_score < threshold) | (self.found_score < 0))


def match_image(
    scores: np.ndarray,
    classes: np.ndarray,
    true_classes: np.ndarray,
    ignored: np.ndarray,
    overlaps: np.ndarray,
    *,
    most: int = 100,
) -> ImageMatches:
    """Matches detections with objects of their class.

    Args:
        scores: (D,).
        classes: (D,) int.
        true_classes: (G,) int.
        ignored: (G,) bool.
        overlaps: (D, G), see :class:`ImageMatches`.
        most: detections of a class that count; the others are ignored.
    """
    fate = np.full(len(scores), IGNORED)
    found = np.full(len(true_classes), -1.0)
    for label in np.unique(classes):
        objects = np.flatnonzero(true_classes == label)
        objects = objects[np.argsort(ignored[objects], kind="stable")]
        detections = np.flatnonzero(classes == label)
        detections = detections[np.argsort(-scores[detections], kind="stable")][:most]
        for detection in detections:
            free = objects[ignored[objects] | (found[objects] < 0)]
            chosen = _best(overlaps[detection], free, ignored)
            if chosen is None:
                fate[detection] = FALSE
            elif not ignored[chosen]:
                fate[detection], found[chosen] = TRUE, scores[detection]
    return ImageMatches(scores, classes, fate, true_classes, found, ignored, overlaps)


def _best(overlap: np.ndarray, objects: np.ndarray, ignored: np.ndarray) -> int | None:
    """The object that overlaps most, one that counts before one that does not; of equal ones the last, as in COCO."""
    for group in (objects[~ignored[objects]], objects[ignored[objects]]):
        near = group[overlap[group] >= _IOU]
        if len(near):
            return int(near[len(near) - 1 - np.argmax(overlap[near][::-1])])
    return None


def confusion(images: Iterable[ImageMatches], num_classes: int, threshold: float) -> np.ndarray:
    """Counts which class was taken for which at a score threshold.

    After the matching within classes, detections and objects that are left over are paired across classes where they
    overlap by half, the largest overlap first.

    Args:
        images: the matches.
        num_classes: C.
        threshold: detections of lower scores do not count.

    Returns:
        (C + 1, C + 1) int64, annotated class by predicted class; the last column counts objects that were missed, the
        last row detections of nothing.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for image in images:
        hit = image.shown(TRUE, threshold)
        np.add.at(counts, (image.classes[hit], image.classes[hit]), 1)
        wrong = np.flatnonzero(image.shown(FALSE, threshold))
        lost = np.flatnonzero(image.missed(threshold))
        pairs = _across(image.overlaps[np.ix_(wrong, lost)])
        for row, column in pairs:
            counts[image.true_classes[lost[column]], image.classes[wrong[row]]] += 1
        alone = np.delete(lost, [column for _, column in pairs])
        np.add.at(counts[:, -1], image.true_classes[alone], 1)
        spurious = np.delete(wrong, [row for row, _ in pairs])
        np.add.at(counts[-1], image.classes[spurious], 1)
    return counts


def _across(overlaps: np.ndarray) -> list[tuple[int, int]]:
    """Pairs rows and columns that overlap by half, the largest overlap first."""
    rows, columns = np.nonzero(overlaps >= _IOU)
    pairs: list[tuple[int, int]] = []
    used: tuple[set[int], set[int]] = (set(), set())
    for k in np.argsort(-overlaps[rows, columns], kind="stable"):
        row, column = int(rows[k]), int(columns[k])
        if row not in used[0] and column not in used[1]:
            pairs.append((row, column))
            used[0].add(row)
            used[1].add(column)
    return pairs


def calibration_bins(scores: np.ndarray, true: np.ndarray, bins: int) -> np.ndarray:
    """Sorts detections into score bins of equal width (arXiv:2004.13546, with the score alone).

    Args:
        scores: (D,) in 0 .. 1.
        true: (D,) bool.
        bins: how many.

    Returns:
        (bins, 3): how many detections, the sum of their scores, how many are true.
    """
    index = np.clip((scores * bins).astype(np.int64), 0, bins - 1)
    columns = (np.ones_like(scores), scores, true.astype(np.float64))
    return np.stack([np.bincount(index, weights=column, minlength=bins) for column in columns], axis=1)
