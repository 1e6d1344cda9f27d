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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as script  # noqa: N813
from cityscapesscripts.helpers.labels import labels

from densekit.evaluation.cityscapes.frames import check_same_size, distinct, read_label_map, threaded

OBJECT_LABELS = {label.id: label.name for label in labels if label.hasInstances and not label.ignoreInEval}
VOID_LABELS = [label.id for label in labels if label.ignoreInEval]
SMALLEST = int(script.args.minRegionSizes[0])  # pixels that an object needs to count
_FIRST_OBJECT = 1000  # lower values of an instance map are labels; of a class with objects, they are groups

TRUE, FALSE, IGNORED = 1, 0, -1


class ListedMask(NamedTuple):
    """A line of a ``_pred.txt``."""

    file: Path
    label_id: int
    score: float


class Outcome(NamedTuple):
    """What has become of the masks of a class: ``scores`` (M,), ``states`` (T, M), and how many ``objects`` count."""

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
    args = copy.copy(script.args)  # the script keeps its state there
    script.setInstanceLabels(args)
    match = functools.partial(match_frame, thresholds=args.overlaps, smallest=SMALLEST)
    frames = list(threaded(match, *zip(*files)))
    precisions = np.full((1, len(OBJECT_LABELS), len(args.overlaps)), np.nan)  # of one distance, that is any
    for k, label_id in enumerate(OBJECT_LABELS):
        precisions[0, k] = _precisions([frame[label_id] for frame in frames])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no class at all is NaN, as it should be
        averages = script.computeAverages(precisions, args)
    return script.prepareJSONDataForResults(averages, precisions, args)


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
    labels_of = np.where(values < _FIRST_OBJECT, values, values // _FIRST_OBJECT)
    listing = sorted(read_listing(listing_file), key=lambda mask: -mask.score)
    outcomes = {}
    for label_id in OBJECT_LABELS:
        masks = [mask for mask in listing if mask.label_id == label_id]
        rows = [_overlaps(mask.file, index, truth_file, len(values)) for mask in masks]
        overlaps = np.array(rows, dtype=np.int64).reshape(len(rows), len(values))
        used = overlaps.any(axis=1)  # an empty mask is no prediction
        scores = np.array([mask.score for mask in masks], dtype=float)[used]
        states, objects = _judge(overlaps[used], values, sizes, labels_of == label_id, thresholds, smallest)
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
    is_group, is_small = here & (values < _FIRST_OBJECT), here & (sizes < smallest)
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


def _precisions(frames: Sequence[Outcome]) -> np.ndarray | float:
    """(T,): average precision of a class; NaN without objects."""
    objects = sum(frame.objects for frame in frames)
    if not objects:
        return math.nan
    scores = np.concatenate([frame.scores for frame in frames])
    states = np.concatenate([frame.states for frame in frames], axis=1)
    return np.array([_average_precision(scores[row >= 0], row[row >= 0] == TRUE, objects) for row in states])


def _average_precision(scores: np.ndarray, is_true: np.ndarray, objects: int) -> float:
    """The area under the line through the points of all distinct scores, from precision 1 at recall 0."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # of the masks of each score
    found = np.cumsum(is_true[order])[last]
    precision = np.concatenate([[1.0], found / (last + 1)])
    recall = np.concatenate([[0.0], found / objects])
    return float((np.diff(recall) * (precision[1:] + precision[:-1])).sum() / 2)
