"""Objects from a picture of segment ids: the box and the polygons of each."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np

from densekit.d2.structures import BoxMode
from densekit.ops.outlines import polygons

__all__ = ["errors_collected", "in_threads", "outline_regions"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def outline_regions(ids: np.ndarray, wanted: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Outlines segments along the edges of their pixels.

    Args:
        ids: (H, W) segment ids.
        wanted: Those to outline.

    Returns:
        id -> ``bbox`` (xyxy, pixels), ``bbox_mode``, ``area`` (pixels) and ``segmentation`` (polygons), for those that
        occur.
    """
    from scipy import ndimage  # slow to import, and most data sets come without pictures of ids

    keys = sorted(set(wanted))
    if not keys:
        return {}
    numbers = np.zeros(keys[-1] + 2, dtype=np.uint16)  # the last entry stands for all greater ids
    numbers[keys] = np.arange(1, len(keys) + 1)
    numbered = numbers[np.minimum(ids, keys[-1] + 1)]  # (H, W)
    found = {}
    for number, window in enumerate(ndimage.find_objects(numbered), start=1):
        if window is None:
            continue
        rows, columns = window
        mask = numbered[window] == number
        offset = np.array([columns.start, rows.start])
        found[keys[number - 1]] = {
            "bbox": [float(end) for end in (columns.start, rows.start, columns.stop, rows.stop)],
            "bbox_mode": BoxMode.XYXY_ABS,
            "area": int(mask.sum()),
            "segmentation": [(outline + offset).ravel().tolist() for outline in polygons(mask)],
        }
    return found


_COLLECTED: ContextVar[list[Exception] | None] = ContextVar("collected", default=None)


@contextmanager
def errors_collected() -> Iterator[list[Exception]]:
    """Within this block, loaders leave out the files that they would refuse; yields the list of the errors."""
    errors: list[Exception] = []
    token = _COLLECTED.set(errors)
    try:
        yield errors
    finally:
        _COLLECTED.reset(token)


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Applies a function to many files; decoding pictures leaves the interpreter free for the other threads."""
    errors = _COLLECTED.get()
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        if errors is None:
            return list(pool.map(function, items))
        futures = [pool.submit(function, item) for item in items]
        results = []
        for future in futures:
            try:
                results.append(future.result())
            except (ValueError, OSError) as error:
                errors.append(error)
        return results
    finally:
        pool.shutdown(cancel_futures=True)  # after an error the rest would be for nothing
