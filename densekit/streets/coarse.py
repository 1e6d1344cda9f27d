"""Coarse labels of a picture, as annotators draw them in a few minutes: well inside of things, with few corners.

What they cover is right; along borders, and where something is small, nothing is labelled.
"""

from typing import NamedTuple

import cv2
import numpy as np

from densekit.files.cityscapes_files import FIRST_INSTANCE
from densekit.ops.outlines import polygons
from densekit.streets.coco_files import Json
from densekit.streets.labels import LABELS, THINGS

_MARGIN = 1 / 80  # that outlines keep from borders, of the picture's shorter side
_LEAST = 3.0  # margins that an outlined area has in its size, each way

_LABEL_OF = {label.id: label for label in LABELS.values()}


class Outline(NamedTuple):
    """A polygon that an annotator has drawn.

    Attributes:
        value: the instance id, or the label id of stuff and of a crowd.
        points: (N, 2) int32, the pixels of its corners, x and y.
    """

    value: int
    points: np.ndarray


def coarse_outlines(ids: np.ndarray) -> list[Outline]:
    """Outlines the segments of a picture.

    Args:
        ids: (H, W) as of :func:`densekit.streets.panoptic_files.segment_ids`.
    """
    margin = max(2, round(_MARGIN * min(ids.shape)))
    # Simplified by less than the margin, so an outline stays within its segment; one more for what painting adds.
    brush = np.ones((2 * margin + 3, 2 * margin + 3), dtype=np.uint8)
    found = []
    for value in np.unique(ids).tolist():
        if value == LABELS["unlabeled"].id:
            continue
        inside = cv2.erode((ids == value).astype(np.uint8), brush)  # the picture's own border is none
        for outline in polygons(inside != 0):
            points = np.floor(outline).astype(np.int32)
            simple = cv2.approxPolyDP(points, margin, True).reshape(-1, 2)
            if len(simple) >= 3 and cv2.contourArea(simple) >= (_LEAST * margin) ** 2:
                found.append(Outline(value, simple))
    return found


def coarse_ids(outlines: list[Outline], size: tuple[int, int]) -> np.ndarray:
    """Paints outlines: (H, W) int32, 0 where there is none."""
    ids = np.zeros(size, dtype=np.int32)
    for outline in outlines:
        cv2.fillPoly(ids, [outline.points], outline.value)
    return ids


def coarse_document(outlines: list[Outline], size: tuple[int, int]) -> Json:
    """The ``_polygons.json`` of a picture."""
    return {
        "imgHeight": size[0],
        "imgWidth": size[1],
        "objects": [{"label": _name(outline.value), "polygon": outline.points.tolist()} for outline in outlines],
    }


def _name(value: int) -> str:
    if value >= FIRST_INSTANCE:
        return _LABEL_OF[value // FIRST_INSTANCE].name
    label = _LABEL_OF[value]
    return f"{label.name}group" if label in THINGS else label.name
