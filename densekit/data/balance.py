"""Balanced sampling: training images with rare classes are drawn more often than they occur."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densekit.d2.data.samplers import RepeatFactorTrainingSampler
from densekit.data.labels import IGNORE, load_sem_seg

__all__ = ["class_aware_weights", "label_classes", "repeat_factors", "shown_classes"]

Record = dict[str, Any]

_STRIDE = 4  # of the pixels of label maps that are looked at


def shown_classes(records: Sequence[Record]) -> list[set[Hashable]]:
    """The classes that each image shows.

    They come from its ``segments_info``, else from its ``annotations`` (crowds aside), else from its label map, of
    which every fourth pixel in both directions is looked at.

    Raises:
        ValueError: An image has none of these.
    """
    return _looked_up(records, _classes)


def label_classes(records: Sequence[Record]) -> list[set[int]]:
    """The classes in the label map of each image, of which every fourth pixel in both directions is looked at.

    Raises:
        ValueError: An image has no label map.
    """
    return _looked_up(records, _classes_of_labels)


def _looked_up(records: Sequence[Record], look: Callable[[Record], set[Any]]) -> list[set[Any]]:
    start, shown = time.perf_counter(), [look(record) for record in records]
    if (seconds := time.perf_counter() - start) > 5:
        logging.getLogger(__name__).info(f"Looked for the classes in {len(records)} label maps in {seconds:.0f} s")
    return shown


def _classes(record: Record) -> set[Hashable]:
    for key in ("segments_info", "annotations"):
        if key in record:
            items = [item for item in record[key] if not item.get("iscrowd", 0)]
            return {(bool(item.get("isthing", True)), item["category_id"]) for item in items}  # numbered apart
    if "sem_seg_file_name" in record:
        return {*_classes_of_labels(record)}
    raise ValueError(
        f"Image {record.get('file_name')} has no annotations, by which DATALOADER.SAMPLER_TRAIN would balance the "
        "classes. Use TrainingSampler."
    )


def _classes_of_labels(record: Record) -> set[int]:
    if "sem_seg_file_name" not in record:
        raise ValueError(
            f"Image {record.get('file_name')} has no label map, in which DATALOADER.SAMPLER_TRAIN would look for "
            "classes. Use TrainingSampler, or train on a semantic or panoptic data set."
        )
    return set(np.unique(load_sem_seg(record)[::_STRIDE, ::_STRIDE]).tolist()) - {IGNORE}


def repeat_factors(records: Sequence[Record], threshold: float, *, sqrt: bool) -> Tensor:
    """The expected repeats of each image in an epoch, after LVIS (arXiv 1908.03195, appendix B.2).

    Args:
        records: of the training images.
        threshold: the share of images below which a class is repeated.
        sqrt: whether factors are square roots, as in the paper.

    Returns:
        (N,) factors of at least 1.
    """
    annotated = list(records)
    if not all("annotations" in record for record in records):
        shown = shown_classes(records)
        numbers = {name: number for number, name in enumerate(dict.fromkeys(chain.from_iterable(shown)))}
        annotated = [{"annotations": [{"category_id": numbers[name]} for name in classes]} for classes in shown]
    return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(annotated, threshold, sqrt=sqrt)


def class_aware_weights(records: Sequence[Record]) -> Tensor:
    """The probability of each image where a class is drawn first, all being equal, and then an image that shows it.

    This is the class-aware sampling of Shen et al. ("Relay Backpropagation", arXiv 1512.05830, section 4.3); images
    without any class are never drawn.

    Returns:
        (N,) float64 probabilities.

    Raises:
        ValueError: No image shows any class.
    """
    shown = shown_classes(records)
    images = Counter(name for classes in shown for name in classes)
    if not images:
        raise ValueError("DATALOADER.SAMPLER_TRAIN ClassAwareTrainingSampler: no training image shows any class.")
    return torch.tensor(
        [sum(1 / (len(images) * images[name]) for name in classes) for classes in shown], dtype=torch.float64
    )
