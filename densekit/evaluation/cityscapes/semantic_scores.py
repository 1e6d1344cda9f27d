"""Scores of semantic label maps as ``evalPixelLevelSemanticLabeling`` of cityscapesscripts computes them.

The scores come from that script's own functions. The counting does not: the script counts with ``numpy.in1d``, which
numpy 2.4 no longer has, ends the process where a file is missing, and goes through each image once for every instance.

L: number of label ids. K: instances in an image.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cityscapesscripts.helpers.labels import category2labels, id2label, labels

from densekit.evaluation.cityscapes.frames import check_same_size, distinct, read_label_map, threaded
from densekit.files.cityscapes_files import FIRST_INSTANCE, label_of

LABELS = 1 + max(label.id for label in labels)


class FrameCounts(NamedTuple):
    """Pixels of one frame.

    ``confusion`` (L, L) counts by true and by predicted label id, ``found`` (K, L) by instance and by predicted label
    id; ``instances`` (K,) are the instance ids.
    """

    confusion: np.ndarray
    instances: np.ndarray
    found: np.ndarray


def score_semantic(files: Sequence[tuple[Path, Path]]) -> dict[str, Any]:
    """Scores the frames of a split.

    Args:
        files: Of each frame the prediction and its ground truth, ``..._labelIds.png`` with ``..._instanceIds.png``
            beside it.

    Returns:
        What the script writes as JSON: ``classScores``, ``classInstScores``, ``categoryScores``,
        ``categoryInstScores`` (0 to 1, NaN for what neither exists nor was predicted), their averages, and more.

    Raises:
        ValueError: A file is missing or damaged, of another size or with a value that is no label id.
    """
    # Imported late: it raises where CITYSCAPES_EXPORT_DIR, which is not needed here, is no folder.
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script  # noqa: N813

    args = copy.copy(script.args)  # the script keeps its state there
    confusion = script.generateMatrix(args)
    stats = script.generateInstanceStats(args)
    for counts in threaded(count_frame, *zip(*files)):
        confusion += counts.confusion.astype(confusion.dtype)
        _add_instances(stats, counts, args.avgClassSize)
    names = {label: id2label[label].name for label in args.evalLabels}
    return script.createResultDict(
        confusion,
        {name: script.getIouScoreForLabel(label, confusion, args) for label, name in names.items()},
        {name: script.getInstanceIouScoreForLabel(label, confusion, stats, args) for label, name in names.items()},
        {name: script.getIouScoreForCategory(name, confusion, args) for name in category2labels},
        {name: script.getInstanceIouScoreForCategory(name, confusion, stats, args) for name in category2labels},
        {},
        args,
    )


def scored_names(metric: str) -> list[str]:
    """The classes, or for ``..._sup`` the categories, that have a metric; the instance-wise ones are for objects."""
    objects_only = metric.startswith("iIoU")
    scored = [label for label in labels if not label.ignoreInEval and (label.hasInstances or not objects_only)]
    return list(dict.fromkeys(label.category if metric.endswith("_sup") else label.name for label in scored))


def count_frame(prediction_file: Path, truth_file: Path) -> FrameCounts:
    """Counts the pixels of a frame by label and by instance."""
    prediction, truth = read_label_map(prediction_file), read_label_map(truth_file)
    instance_file = truth_file.with_name(truth_file.name.replace("_labelIds", "_instanceIds"))
    instances = read_label_map(instance_file)
    check_same_size(prediction, truth, prediction_file, truth_file)
    check_same_size(instances, truth, instance_file, truth_file)
    for image, path in ((prediction, prediction_file), (truth, truth_file)):
        if image.max() >= LABELS:
            raise ValueError(f"{path} has the value {image.max()}; label ids go from 0 to {LABELS - 1}.")
    of_objects = instances >= FIRST_INSTANCE
    ids, index, _ = distinct(instances[of_objects])
    return FrameCounts(
        confusion=_count_pairs(truth, prediction, LABELS, LABELS),
        instances=ids,
        found=_count_pairs(index, prediction[of_objects], len(ids), LABELS),
    )


def _count_pairs(first: np.ndarray, second: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(rows, columns): how often each pair of values stands at the same place."""
    pairs = first.astype(np.int32) * columns + second
    return np.bincount(pairs.ravel(), minlength=rows * columns).reshape(rows, columns)


def _add_instances(stats: dict[str, Any], counts: FrameCounts, class_sizes: dict[str, float]) -> None:
    """Adds the objects of a frame to the script's statistics; their pixels weigh as those of an object of mean size."""
    for instance, found in zip(counts.instances.tolist(), counts.found):
        label = id2label.get(label_of(instance))
        if label is None or label.ignoreInEval:
            continue
        size = int(found.sum())
        weight = class_sizes[label.name] / size
        shares = {"classes": (label.name, int(found[label.id]))}
        if label.category in stats["categories"]:
            members = stats["categories"][label.category]["labelIds"]
            shares["categories"] = (label.category, int(found[members].sum()))
        for level, (name, hits) in shares.items():
            entry = stats[level][name]
            for key, pixels in (("tp", hits), ("fn", size - hits)):
                entry[key] += pixels
                entry[f"{key}Weighted"] += pixels * weight
