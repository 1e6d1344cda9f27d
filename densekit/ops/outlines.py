"""Polygons around label masks, at the edges of pixels rather than through their centres."""

from collections.abc import Sequence

import cv2
import numpy as np

_ENLARGE = 2  # contours of the enlarged mask lie a quarter pixel inside the outer edge, and around every pixel centre
_TOLERANCE = 0.8  # of the simplification, in enlarged pixels
_SMALL_HOLE = 6  # holes of fewer pixels are filled


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The tight box x0, y0, x1, y1 (exclusive) of a mask (H, W) that is not empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Polygons (N, 2), x and y in pixels (a pixel ``i`` covers ``[i, i + 1)``), that together cover a mask (H, W).

    Polygons cannot have holes, so a part with a hole is cut in two through it.
    """
    if not mask.any():
        return []
    x0, y0, x1, y1 = bounds(mask)
    found: list[np.ndarray] = []
    _trace(mask[y0:y1, x0:x1].astype(np.uint8), np.array([x0, y0], dtype=np.float64), found)
    return found


def _trace(mask: np.ndarray, offset: np.ndarray, found: list[np.ndarray]) -> None:
    contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for i, contour in enumerate(contours):
        if tree[0, i, 3] >= 0:  # a hole, found through its parent
            continue
        left, top, width, height = cv2.boundingRect(contour)
        part = np.zeros((height, width), dtype=np.uint8)
        cv2.drawContours(part, contours, i, 1, cv2.FILLED, hierarchy=tree, maxLevel=1, offset=(-left, -top))
        part &= mask[top : top + height, left : left + width]
        start = offset + np.array([left, top])
        cut = _widest_hole(contours, tree, i)
        if cut is None:
            found.extend(_outer(part, start))
            continue
        for a, b in ((0, cut - left), (cut - left, width)):
            _trace(np.ascontiguousarray(part[:, a:b]), start + np.array([a, 0]), found)


def _widest_hole(contours: Sequence[np.ndarray], tree: np.ndarray, outer: int) -> int | None:
    """The column through the middle of the largest hole that is worth a cut."""
    best, column, child = 0, None, int(tree[0, outer, 2])
    while child >= 0:
        left, _, width, height = cv2.boundingRect(contours[child])  # includes the pixels around the hole
        inside = (width - 2) * (height - 2)
        if inside >= _SMALL_HOLE and inside > best:
            best, column = inside, left + width // 2
        child = int(tree[0, child, 0])
    return column


def _outer(part: np.ndarray, start: np.ndarray) -> list[np.ndarray]:
    large = cv2.resize(part, None, fx=_ENLARGE, fy=_ENLARGE, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = []
    for contour in contours:
        simple = cv2.approxPolyDP(contour, _TOLERANCE, True).reshape(-1, 2)
        if len(simple) < 3:
            simple = contour.reshape(-1, 2)
        if len(simple) >= 3:
            outlines.append((simple + 0.5) / _ENLARGE + start)
    return outlines
