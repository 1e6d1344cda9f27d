"""Average precision of masks as ``evalInstanceLevelSemanticLabeling`` of cityscapesscripts computes it.

The precision-recall part is that script's own. Which mask overlaps which object by how much is counted here: the
script uses ``numpy.in1d``, which numpy 2.4 no longer has, ends the process where a file is missing, takes the ground
truth from a cache that may be stale, and compares each mask with each object at full size.

K: values in an instance map.
"""

import copy
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as script  # noqa: N813
from cityscapesscripts.helpers.labels import labels

from densekit.evaluation.cityscapes.frames import check_same_size, for_each, read_label_map

OBJECT_LABELS = {label.id: label.name for label in labels if label.hasInstances and not label.ignoreInEval}
_VOID = [label.id for label in labels if label.ignoreInEval and label.id >= 0]

Match = dict[str, Any]  # as the script has it: by class, the objects or the masks with what they overlap


class ListedMask(NamedTuple):
    """A line of a ``_pred.txt``."""

    file: Path
    label_id: int
    score: float


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
    matches = dict(enumerate(for_each(match_frame, *zip(*files))))
    precisions = script.evaluateMatches(matches, args)
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
    for number, line in enumerate(path.read_text().splitlines(), start=1):
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


def match_frame(listing_file: Path, truth_file: Path) -> Match:
    """Counts how the masks of a frame overlap its objects, in the form that the script's ``evaluateMatches`` takes."""
    truth = read_label_map(truth_file)
    values, index, sizes = np.unique(truth, return_inverse=True, return_counts=True)
    index = index.reshape(truth.shape)
    void = np.isin(values, _VOID)
    objects: dict[str, list[Match]] = {name: [] for name in OBJECT_LABELS.values()}
    place: dict[str, list[int]] = {name: [] for name in OBJECT_LABELS.values()}
    for k, (value, size) in enumerate(zip(values.tolist(), sizes.tolist())):
        name = OBJECT_LABELS.get(value if value < 1000 else value // 1000)
        if name is not None:
            # A value below 1000 is a group. There are no depths, which the script says in this way.
            objects[name].append(
                {"instID": value, "pixelCount": size, "medDist": -1, "distConf": 0.0, "matchedPred": []}
            )
            place[name].append(k)
    masks: dict[str, list[Match]] = {name: [] for name in OBJECT_LABELS.values()}
    for listed in read_listing(listing_file):
        name = OBJECT_LABELS[listed.label_id]
        overlaps = _overlaps(listed.file, index, truth_file, len(values))
        area = int(overlaps.sum())
        if area == 0:
            continue
        mask = {"confidence": listed.score, "pixelCount": area, "voidIntersection": int(overlaps[void].sum())}
        hits = [(found, int(overlaps[k])) for found, k in zip(objects[name], place[name]) if overlaps[k]]
        for found, pixels in hits:
            found["matchedPred"].append(mask | {"intersection": pixels})
        matched = [{**found, "matchedPred": [], "intersection": pixels} for found, pixels in hits]
        masks[name].append(mask | {"matchedGt": matched})
    return {"groundTruth": objects, "prediction": masks}


def _overlaps(mask_file: Path, index: np.ndarray, truth_file: Path, count: int) -> np.ndarray:
    """(K,): pixels of a mask on each value of the instance map, given as indices (H, W)."""
    mask = read_label_map(mask_file)
    check_same_size(mask, index, mask_file, truth_file)
    x, y, width, height = cv2.boundingRect(mask)
    window = np.s_[y : y + height, x : x + width]
    return np.bincount(index[window][mask[window] != 0], minlength=count)
