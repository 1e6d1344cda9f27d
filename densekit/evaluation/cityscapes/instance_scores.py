"""Average precision of masks as ``evalInstanceLevelSemanticLabeling`` of cityscapesscripts defines it.

A mask counts as found if its IoU with an object of its class exceeds the threshold, as do further masks on the same
object as false. Masks without an object are false too, unless more than the threshold's share of them lies on void, on
groups of their class or on objects that are too small to count; what matches a group or such an object is ignored.

Only settings and averages are taken from the script. It uses ``numpy.in1d``, which numpy 2.4 no longer has, ends the
process where a file is missing, fails on a class all of whose masks are to be ignored, takes the ground truth from a
cache that may be stale, and compares each mask with each object at full size.

K: values in an instance map. M: masks of a frame. G: objects and groups of a class in it. T: thresholds.
"""

import copy
import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as script  # noqa: N813
from cityscapesscripts.helpers.labels import labels

from densekit.evaluation.cityscapes.frames import check_same_size, distinct, read_label_map, threaded
from densekit.files.cityscapes_files import FIRST_INSTANCE, labels_of

OBJECT_LABELS = {label.id: label.name for label in labels if label.hasInstances and not label.ignoreInEval}
VOID_LABELS = [label.id for label in labels if label.ignoreInEval]
OVERLAPS: np.ndarray = script.args.overlaps  # ten thresholds of IoU, .5 to .95
SMALLEST = int(script.args.minRegionSizes[0])  # pixels that an object needs to count

TRUE, FALSE, IGNORED = 1, 0, -1


class ListedMask(NamedTuple):
    """A line of a ``_pred.txt``."""

    file: Path
    label_id: int
    score: float


class Outcome(NamedTuple):
    """Fate of the masks of a class: ``scores`` (M,), ``states`` (T, M), and the number of ``objects`` that count."""

    scores: np.ndarray
    states: np.ndarray
    objects: int


def score_instances(files: Sequence[tuple[Path, Path]]) -> dict[str, Any]:
    """Scores the frames of a split.

    Args:
        files: Of each frame the ``_pred.txt`` and the ground truth ``..._instanceIds.png``.

    Returns:
        What the script writes as JSON: ``averages`` with ``allAp``, ``allAp50%`` and ``classes`` (0 to 1, NaN where
        there are no objects), the matrix that they are means of, and the settings.

    Raises:
        ValueError: A file is missing or damaged, or a mask has another size than its image.
    """
    match = functools.partial(match_frame, thresholds=OVERLAPS, smallest=SMALLEST)
    return average_frames(list(threaded(match, *zip(*files))))


def average_frames(frames: Sequence[Mapping[int, Outcome]]) -> dict[str, Any]:
    """Returns what :func:`score_instances` does from the outcomes of the frames at all ``OVERLAPS``."""
    args = copy.copy(script.args)  # the script keeps its state there
    script.setInstanceLabels(args)
    precisions = np.full((1, len(OBJECT_LABELS), len(OVERLAPS)), np.nan)  # of one distance, that is any
    for k, label_id in enumerate(OBJECT_LABELS):
        curves = recall_curves([frame[label_id] for frame in frames])
        if curves is not None:
            precisions[0, k] = [area_below(curve) for curve in curves]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no class at all is NaN, as it should be
        averages = script.computeAverages(precisions, args)
    return script.prepareJSONDataForResults(averages, precisions, args)


def percentages(scores: Mapping[str, Any]) -> dict[str, float]:
    """Returns AP and AP50, of all classes and ``-<class>`` of each, from what :func:`score_instances` returns."""
    averages = scores["averages"]
    metrics = {"AP": 100 * averages["allAp"], "AP50": 100 * averages["allAp50%"]}
    for metric, key in (("AP", "ap"), ("AP50", "ap50%")):
        metrics |= {f"{metric}-{name}": 100 * of_class[key] for name, of_class in averages["classes"].items()}
    return {name: float(value) for name, value in metrics.items()}


def read_listing(path: Path) -> list[ListedMask]:
    """Reads a ``_pred.txt``.

    Raises:
        ValueError: A line is not ``mask labelID score``, or its path leads out of the folder, or its label has no
            objects.
    """
    listed = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            name, label_id, score = line.split(" ")
            mask = ListedMask(path.parent / name, int(label_id), float(score))
        except ValueError:
            raise ValueError(f"{path}, line {number}: {line!r} is not 'mask labelID score'.") from None
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{path}, line {number}: '{name}' has to be a relative path inside of {path.parent}.")
        if mask.label_id not in OBJECT_LABELS or not math.isfinite(mask.score):
            raise ValueError(
                f"{path}, line {number}: label {mask.label_id} with score {mask.score}; labels are one of "
                f"{sorted(OBJECT_LABELS)} and scores are finite."
            )
        listed.append(mask)
    return listed


def match_frame(listing_file: Path, truth_file: Path, thresholds: np.ndarray, smallest: int) -> dict[int, Outcome]:
    """Judges the masks of a frame.

    Args:
        listing_file: The ``_pred.txt``.
        truth_file: The ``_instanceIds.png``.
        thresholds: (T,) of IoU, at least .5, so that no mask matches two objects.
        smallest: Pixels that an object needs to count.

    Returns:
        The outcome of each class by label id.
    """
    values, index, sizes = distinct(read_label_map(truth_file))
    listing = read_listing(listing_file)
    rows = [_overlaps(mask.file, index, truth_file, len(values)) for mask in listing]
    overlaps = np.array(rows, dtype=np.int64).reshape(len(rows), len(values))
    return judge_frame(listing, overlaps, values, sizes, thresholds, smallest)


def judge_frame(
    listing: Sequence[ListedMask],
    overlaps: np.ndarray,
    values: np.ndarray,
    sizes: np.ndarray,
    thresholds: np.ndarray,
    smallest: int,
) -> dict[int, Outcome]:
    """Judges the masks of a frame, whose pixels were counted.

    Args:
        listing: M masks in any order; of equal scores the first comes first.
        overlaps: (M, K) pixels of the masks on each value of the instance map.
        values: (K,) those values.
        sizes: (K,) their pixels.
        thresholds: (T,), see :func:`match_frame`.
        smallest: Pixels that an object needs to count.

    Returns:
        The outcome of each class by label id.
    """
    label_ids = labels_of(values)
    order = sorted(range(len(listing)), key=lambda number: -listing[number].score)
    used = overlaps.sum(axis=1) > 0  # an empty mask is no prediction
    outcomes = {}
    for label_id in OBJECT_LABELS:
        chosen = [number for number in order if listing[number].label_id == label_id and used[number]]
        scores = np.array([listing[number].score for number in chosen], dtype=float)
        states, objects = _judge(overlaps[chosen], values, sizes, label_ids == label_id, thresholds, smallest)
        outcomes[label_id] = Outcome(scores, states, objects)
    return outcomes


def _judge(
    overlaps: np.ndarray, values: np.ndarray, sizes: np.ndarray, here: np.ndarray, thresholds: np.ndarray, smallest: int
) -> tuple[np.ndarray, int]:
    """Judges the masks of a class in a frame.

    Args:
        overlaps: (M, K) pixels of the masks, best score first, on each value of the instance map.
        values: (K,) those values.
        sizes: (K,) their pixels.
        here: (K,) whether a value is of this class.
        thresholds: (T,).
        smallest: Pixels that an object needs to count.

    Returns:
        (T, M): TRUE, FALSE or IGNORED; and the number of objects that count.
    """
    is_group, is_small = here & (values < FIRST_INSTANCE), here & (sizes < smallest)
    counts = (here & ~is_group & ~is_small)[here]
    areas = overlaps.sum(axis=1)
    # A group that is also small counts twice, as it does in the script.
    ignorable = (
        sum(overlaps[:, part].sum(axis=1) for part in (np.isin(values, VOID_LABELS), is_group, is_small)) / areas
    )
    shared = overlaps[:, here]  # (M, G)
    ious = shared / (sizes[here] + areas[:, None] - shared)
    found = counts & (ious > thresholds[:, None, None])  # (T, M, G)
    is_best = found & (found.cumsum(axis=1) == 1)
    # A mask that matches a group or something small lies on it by more than the threshold, so it is ignored here too.
    wrong = ignorable <= thresholds[:, None]
    states = np.where(wrong | found.any(axis=2), FALSE, IGNORED)
    states[is_best.any(axis=2)] = TRUE
    return states, int(counts.sum())


def _overlaps(mask_file: Path, index: np.ndarray, truth_file: Path, count: int) -> np.ndarray:
    """(K,): pixels of a mask on each value of the instance map, given as indices (H, W)."""
    mask = read_label_map(mask_file)
    check_same_size(mask, index, mask_file, truth_file)
    x, y, width, height = cv2.boundingRect(mask)
    window = np.s_[y : y + height, x : x + width]
    return np.bincount(index[window][mask[window] != 0], minlength=count)


def recall_curves(frames: Sequence[Outcome]) -> list[np.ndarray] | None:
    """The curves of a class, one for each threshold; None without objects.

    Returns:
        T arrays (P, 2) of recall and precision at all distinct scores, the highest first, after precision 1 at
        recall 0. The area under the line through the points is the average precision.
    """
    objects = sum(frame.objects for frame in frames)
    if not objects:
        return None
    scores = np.concatenate([frame.scores for frame in frames])
    states = np.concatenate([frame.states for frame in frames], axis=1)
    return [_recall_curve(scores[row >= 0], row[row >= 0] == TRUE, objects) for row in states]


def _recall_curve(scores: np.ndarray, is_true: np.ndarray, objects: int) -> np.ndarray:
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # of the masks of each score
    found = np.cumsum(is_true[order])[last]
    precision = np.concatenate([[1.0], found / (last + 1)])
    recall = np.concatenate([[0.0], found / objects])
    return np.stack([recall, precision], axis=1)


def area_below(curve: np.ndarray) -> float:
    """The area under the line through points (P, 2)."""
    recall, precision = curve.T
    return float((np.diff(recall) * (precision[1:] + precision[:-1])).sum() / 2)
