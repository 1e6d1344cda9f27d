"""Polygons and run lengths of COCO annotations: are they masks? One answer for the loader, ``check`` and ``--fix``."""

import math
from itertools import chain
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

__all__ = ["Extent", "polygon_problem", "rle_problem", "segmentation_extent"]

_LEAST_AREA = 1e-6  # square pixels
Extent = tuple[float, float, float, float]


def segmentation_extent(segmentation: Any) -> Extent | None:
    """Returns the rectangle (xyxy, pixels) around sound polygons or a sound RLE."""
    if isinstance(segmentation, dict):
        rle = segmentation
        if isinstance(rle["counts"], list):
            rle = mask_util.frPyObjects(rle, *rle["size"])
        x, y, width, height = mask_util.toBbox(rle).tolist()
        return x, y, x + width, y + height
    xs = list(chain.from_iterable(polygon[0::2] for polygon in segmentation))
    ys = list(chain.from_iterable(polygon[1::2] for polygon in segmentation))
    return min(xs), min(ys), max(xs), max(ys)


def polygon_problem(polygon: list[Any]) -> tuple[str, str]:
    """Returns the kind of finding on one polygon [x0, y0, x1, y1, ...] and its detail; empty where it is sound."""
    if not all(type(value) in (int, float) for value in polygon):
        return "segmentation-malformed", f"coordinates {str(polygon)[:40]}"
    if len(polygon) == 4:
        return "polygon-box", f"{polygon} is a box, or a line"
    if len(polygon) < 6 or len(polygon) % 2:
        return "polygon-degenerate", f"{len(polygon)} numbers"
    if not _are_finite(polygon):
        return "polygon-nan", str(polygon)[:60]
    return ("polygon-degenerate", f"no area: {str(polygon)[:60]}") if _on_a_line(polygon) else ("", "")


def _are_finite(values: list[Any]) -> bool:
    """Tells whether all numbers are finite, at the speed of a sum."""
    try:
        return math.isfinite(sum(values))
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _on_a_line(polygon: list[float]) -> bool:
    """Tells whether all corners lie on one line; the third corner decides for most polygons."""
    x0, y0 = polygon[0], polygon[1]
    dx = dy = 0.0
    for x, y in zip(polygon[2::2], polygon[3::2]):
        if not dx and not dy:
            dx, dy = x - x0, y - y0
        elif abs(dx * (y - y0) - dy * (x - x0)) > _LEAST_AREA:
            return False
    return True


def rle_problem(rle: dict[str, Any], image: dict[str, Any]) -> tuple[str, str]:
    """Returns the kind of finding on an RLE mask and its detail.

    Checked before pycocotools sees it, whose C code takes the counts as they are.
    """
    size, counts = rle.get("size"), rle.get("counts")
    expected = [image.get("height"), image.get("width")]
    if not isinstance(size, list) or len(size) != 2 or not all(type(v) is int and v > 0 for v in size):
        return "rle-broken", f"size {size!r}"
    if all(type(v) in (int, float) for v in expected) and size != expected:
        return "rle-broken", f"size {size} in an image of {expected} (height, width)"
    runs = _runs(counts)
    if runs is None or (runs < 0).any():
        return "rle-broken", f"counts {str(counts)[:30]!r} are no run-length encoding"
    if runs.sum() != size[0] * size[1]:
        return "rle-broken", f"counts of {runs.sum()} pixels for a mask of {size[0] * size[1]}"
    return ("", "") if runs[1::2].sum() else ("mask-empty", "an RLE without a pixel")


def _runs(counts: Any) -> np.ndarray | None:
    """Returns the run lengths of plain or compressed counts; None where they are neither."""
    if isinstance(counts, list):
        whole = all(type(value) is int and 0 <= value < 2**40 for value in counts)
        return np.array(counts, dtype=np.int64) if whole else None
    if not isinstance(counts, str) or not counts or not counts.isascii():
        return None
    # COCO's text form: six bits a character above '0', low groups first. Five carry the value, the sixth says that
    # more follow; the top value bit of the last is the sign. From the fourth run on it is the difference to the run
    # before the last.
    bits = np.frombuffer(counts.encode(), dtype=np.uint8).astype(np.int64) - ord("0")
    if bits.min() < 0 or bits.max() > 63 or bits[-1] & 0x20:
        return None
    last = (bits & 0x20) == 0
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(bits)) - np.repeat(starts, ends - starts + 1)
    if place.max() > 11:  # more than 60 bits
        return None
    runs = np.add.reduceat((bits & 0x1F) << (5 * place), starts)
    runs -= np.where(bits[ends] & 0x10, np.int64(1) << (5 * (place[ends] + 1)), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
