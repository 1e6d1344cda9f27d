"""Pixels of each class in the label maps of a data set, and the class weights that follow from them."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from densekit.data.labels import load_sem_seg

__all__ = ["class_weights", "pixel_counts"]


def pixel_counts(records: Sequence[Mapping[str, Any]], num_classes: int) -> np.ndarray:
    """Counts the pixels of each class in the label maps of records.

    Returns:
        (num_classes,) int64; pixels of no class, or of another one, do not count.

    Raises:
        ValueError: No record has a label map.
    """
    labelled = [record for record in records if "sem_seg_file_name" in record]
    if not labelled:
        raise ValueError("The training data has no label maps, by which classes could be weighed.")
    start, counts = time.perf_counter(), np.zeros(num_classes, dtype=np.int64)
    for record in labelled:
        counts += np.bincount(load_sem_seg(record).ravel(), minlength=num_classes)[:num_classes]
    if (seconds := time.perf_counter() - start) > 5:
        logging.getLogger(__name__).info(f"Counted the pixels of {len(labelled)} label maps in {seconds:.0f} s")
    return counts


def class_weights(counts: np.ndarray) -> list[float]:
    """1 / ln(1.02 + share of the pixels) (ENet, arXiv 1606.02147, section 5.2), scaled to a mean of 1.

    Classes without pixels weigh 1.
    """
    shares = counts / max(counts.sum(), 1)
    weights, shown = 1 / np.log(1.02 + shares), counts > 0
    if shown.any():
        weights /= weights[shown].mean()
    return [round(float(weight), 4) for weight in np.where(shown, weights, 1.0)]
