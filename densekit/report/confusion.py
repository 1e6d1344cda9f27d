"""Confusion matrices as the page's script reads them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["confusion_data"]


def confusion_data(matrices: Sequence[np.ndarray], thresholds: Sequence[float | None] = (None,)) -> dict[str, Any]:
    """Returns the cells that are not zero as ``[row, column, count]``, annotated by predicted class.

    Args:
        matrices: one for each threshold.
        thresholds: of the score; None where there are no scores.
    """
    return {"thresholds": list(thresholds), "cells": [_cells(matrix) for matrix in matrices]}


def _cells(counts: np.ndarray) -> list[list[int]]:
    rows, columns = np.nonzero(counts)
    return np.stack([rows, columns, counts[rows, columns]], axis=1).tolist()
