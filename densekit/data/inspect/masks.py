"""Polygons and run-length masks of COCO annotations."""

from itertools import chain
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from densekit.data.inspect.coco_file import Entries, Entry
from densekit.data.inspect.findings import Findings

__all__ = ["MaskCheck", "polygon_problem", "rle_problem", "segmentation_extent"]

_LEAST_AREA = 1e-6  # square pixels
Extent = tuple[float, float, float, float]


class MaskCheck:
    """Checks segmentations one by one.

    Args:
        entries: the file.
        findings: where to record.
        border: pixels by which rounding may carry a corner over the border.
    """

    def __init__(self, entries: Entries, findings: Findings, border: float) -> None:
        self._entries, self._findings, self._border = entries, findings, border

    def check(self, annotation: Entry) -> Extent | None:
        """Records what is wrong; returns the rectangle around the mask (xyxy), None without a sound mask."""
        segmentation = annotation.get("segmentation")
        if not segmentation:
            return None  # an empty list or nothing: an annotation without a mask
        image = self._entries.images[annotation["image_id"]]
        if isinstance(segmentation, dict):
            kind, detail = rle_problem(segmentation, image)
            if kind:
                self._add(kind, annotation, detail)
                return None
            return segmentation_extent(segmentation)
        if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
            self._add("segmentation-malformed", annotation, f"it begins with {str(segmentation)[:40]}")
            return None
        return self._polygons(annotation, segmentation, image)

    def _polygons(self, annotation: Entry, polygons: list[list[Any]], image: Entry) -> Extent | None:
        sound = []
        for number, polygon in enumerate(polygons):
            kind, detail = polygon_problem(polygon)
            if kind:
                self._add(kind, annotation, f"polygon {number}: {detail}")
            else:
                sound.append(polygon)
        extent = segmentation_extent(sound) if sound else None
        width, height = image.get("width"), image.get("height")
        if extent and isinstance(width, int | float) and isinstance(height, int | float):
            over = max(-extent[0], -extent[1], extent[2] - width, extent[3] - height)
            if over > self._border:
                self._add("polygon-outside", annotation, f"by {over:.1f} pixels", box=extent)
        return extent

    def _add(self, kind: str, annotation: Entry, detail: str, **fields: Any) -> None:
        place = self._entries.place(annotation)
        self._findings.add(kind, self._entries.where(annotation), detail, **place, **fields)


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
    if not all(isinstance(value, int | float) for value in polygon):
        return "segmentation-malformed", f"coordinates {str(polygon)[:40]}"
    if len(polygon) < 6 or len(polygon) % 2:
        return "polygon-degenerate", f"{len(polygon)} numbers"
    values = np.array(polygon, dtype=np.float64)
    if not np.isfinite(values).all():
        return "polygon-nan", str(polygon)[:60]
    # Twice the area by the shoelace formula, about the first corner.
    x, y = values[0::2] - values[0], values[1::2] - values[1]
    area = abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2
    return ("", "") if area > _LEAST_AREA else ("polygon-degenerate", f"no area: {str(polygon)[:60]}")


def rle_problem(rle: dict[str, Any], image: Entry) -> tuple[str, str]:
    """Returns the kind of finding on an RLE mask and its detail.

    Checked before pycocotools sees it, whose C code takes the counts as they are.
    """
    size, counts = rle.get("size"), rle.get("counts")
    expected = [image.get("height"), image.get("width")]
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(v, int) and v > 0 for v in size):
        return "rle-broken", f"size {size!r}"
    if all(isinstance(v, int | float) for v in expected) and size != expected:
        return "rle-broken", f"size {size} in an image of {expected} (height, width)"
    runs = _runs(counts)
    if runs is None or (runs < 0).any():
        return "rle-broken", f"counts {str(counts)[:30]!r} are no run lengths"
    if runs.sum() != size[0] * size[1]:
        return "rle-broken", f"counts of {runs.sum()} pixels for a mask of {size[0] * size[1]}"
    return ("", "") if runs[1::2].sum() else ("mask-empty", "an RLE without a pixel")


def _runs(counts: Any) -> np.ndarray | None:
    """Returns the run lengths of plain or compressed counts; None where they are neither."""
    if isinstance(counts, list):
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in counts)
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
