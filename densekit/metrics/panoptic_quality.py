"""Panoptic quality ("Panoptic Segmentation", arXiv:1801.00868, section 4), as COCO's official evaluation defines it.

A predicted and an annotated segment of one category match where their IoU exceeds 1/2, so each matches once at most.
What is void in the annotation is no part of a prediction's union. A prediction without a match is no error if more than
half of it lies on void or on crowds of its category; a crowd is never missed.

The official code looks at one crowd of each category in an image, which is what COCO and Cityscapes annotate; here all
crowds count. Areas are those of the map, where the official code trusts the areas in the annotation file.

T, P: annotated and predicted segments of one image, void included.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

VOID = 0
_SHIFT = 24  # segment ids have three bytes


@dataclass(frozen=True)
class TrueSegment:
    """An annotated segment: its category, and whether it is a crowd, several things in one."""

    category: int
    is_crowd: bool = False


@dataclass(frozen=True)
class Matching:
    """Result of matching the segments of one image.

    Attributes:
        matched: Category and IoU of each pair.
        missed: Category of each annotated segment without a partner.
        spurious: Category of each predicted segment without a partner.
        confused: Annotated and predicted category of each pair of a missed and a spurious segment whose IoU exceeds
            1/2: what was found under another name.
    """

    matched: tuple[tuple[int, float], ...]
    missed: tuple[int, ...]
    spurious: tuple[int, ...]
    confused: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Quality:
    """Panoptic, segmentation and recognition quality from 0 to 1; NaN where there was nothing to judge."""

    pq: float
    sq: float
    rq: float

    @property
    def is_judged(self) -> bool:
        """Tells whether anything was annotated or predicted."""
        return not math.isnan(self.pq)


def match_segments(
    true_ids: np.ndarray, truth: Mapping[int, TrueSegment], predicted_ids: np.ndarray, predicted: Mapping[int, int]
) -> Matching:
    """Compares one image's segments.

    Args:
        true_ids: (H, W) the annotated segment of each pixel; 0 is void.
        truth: The annotated segments by id.
        predicted_ids: (H, W) the predicted segment of each pixel; 0 is void.
        predicted: Category of each predicted segment by id.

    Raises:
        ValueError: The maps differ in size, or the predicted map and the predicted segments name different ids.
    """
    if true_ids.shape != predicted_ids.shape:
        raise ValueError(f"The annotated map is {true_ids.shape} (height, width), the predicted {predicted_ids.shape}.")
    rows, columns, overlap = _overlaps(true_ids, predicted_ids)  # (T,), (P,), (T, P)
    _check_ids(set(columns.tolist()) - {VOID}, set(predicted))
    true_area, area = overlap.sum(axis=1), overlap.sum(axis=0)
    true_category = _lookup(rows, {key: segment.category for key, segment in truth.items()})
    category = _lookup(columns, predicted)
    is_crowd = np.isin(rows, [key for key, segment in truth.items() if segment.is_crowd])
    on_void = overlap[rows == VOID].sum(axis=0)

    union = true_area[:, None] + area - overlap - on_void
    same = (true_category[:, None] == category) & (true_category >= 0)[:, None]
    # Twice the overlap against the union: whole numbers, so that an IoU of exactly 1/2 is never rounded over it.
    near = ~is_crowd[:, None] & (2 * overlap > union)
    pairs = same & near

    ignored = on_void + (overlap * (same & is_crowd[:, None])).sum(axis=0)
    spurious = (category >= 0) & ~pairs.any(axis=0) & (2 * ignored <= area)
    across = near & ~same & (true_category >= 0)[:, None] & spurious
    found = set(rows[pairs.any(axis=1)].tolist())
    return Matching(
        matched=tuple((int(true_category[t]), float(overlap[t, p] / union[t, p])) for t, p in np.argwhere(pairs)),
        missed=tuple(s.category for key, s in truth.items() if not s.is_crowd and key not in found),
        spurious=tuple(category[spurious].tolist()),
        confused=tuple((int(true_category[t]), int(category[p])) for t, p in np.argwhere(across)),
    )


def panoptic_confusion(images: Iterable[Matching], categories: Sequence[int]) -> np.ndarray:
    """Counts which category was taken for which, in segments.

    A row sums up to the annotated segments of a category that count, a column to the predicted ones.

    Args:
        images: the matchings.
        categories: C of them.

    Returns:
        (C + 1, C + 1) int64, annotated by predicted category in their order; the last column counts segments that
        were missed, the last row segments where there is none.
    """
    number = {key: k for k, key in enumerate(categories)}
    counts = np.zeros((len(number) + 1, len(number) + 1), dtype=np.int64)
    for image in images:
        for category, _ in image.matched:
            counts[number[category], number[category]] += 1
        for true, predicted in image.confused:
            counts[number[true], number[predicted]] += 1
        for category in (Counter(image.missed) - Counter(true for true, _ in image.confused)).elements():
            counts[number[category], -1] += 1
        for category in (Counter(image.spurious) - Counter(predicted for _, predicted in image.confused)).elements():
            counts[-1, number[category]] += 1
    return counts


def panoptic_quality(images: Iterable[Matching], categories: Sequence[int]) -> dict[int, Quality]:
    """Returns the quality of each category over all images; NaN for those neither annotated nor predicted."""
    overlaps: dict[int, list[float]] = {key: [] for key in categories}
    alone = dict.fromkeys(categories, 0)
    for image in images:
        for category, iou in image.matched:
            overlaps[category].append(iou)
        for category in (*image.missed, *image.spurious):
            alone[category] += 1
    return {key: _quality(overlaps[key], alone[key]) for key in categories}


def mean_quality(qualities: Iterable[Quality]) -> Quality:
    """Returns the mean over the categories that could be judged; NaN where there is none."""
    judged = np.array([[q.pq, q.sq, q.rq] for q in qualities if q.is_judged]).reshape(-1, 3)
    return Quality(*judged.mean(axis=0).tolist()) if len(judged) else Quality(np.nan, np.nan, np.nan)


def _quality(overlaps: Sequence[float], alone: int) -> Quality:
    """Equations 1 and 2 of the paper: what stands alone on either side weighs half."""
    matched = len(overlaps)
    if not matched + alone:
        return Quality(np.nan, np.nan, np.nan)
    total, weight = sum(overlaps), matched + alone / 2
    return Quality(total / weight, total / matched if matched else 0.0, matched / weight)


def _overlaps(true_ids: np.ndarray, predicted_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the ids on either side, ascending, and the (T, P) pixels that they share."""
    joint, counts = np.unique(true_ids.astype(np.int64) << _SHIFT | predicted_ids.astype(np.int64), return_counts=True)
    rows, row = np.unique(joint >> _SHIFT, return_inverse=True)
    columns, column = np.unique(joint & (1 << _SHIFT) - 1, return_inverse=True)
    overlap = np.zeros((len(rows), len(columns)), dtype=np.int64)
    overlap[row, column] = counts
    return rows, columns, overlap


def _lookup(ids: np.ndarray, categories: Mapping[int, int]) -> np.ndarray:
    """Returns the category of each id; -1 for void and for ids without one."""
    return np.array([categories.get(key, -1) for key in ids.tolist()], dtype=np.int64)


def _check_ids(drawn: set[int], listed: set[int]) -> None:
    if drawn - listed:
        raise ValueError(f"Segments {sorted(drawn - listed)[:5]} are in the predicted map but have no category.")
    if listed - drawn:
        raise ValueError(f"Predicted segments {sorted(listed - drawn)[:5]} have a category but no pixel.")
