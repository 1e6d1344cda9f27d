"""Predicted masks as polygons."""

from typing import Any

import numpy as np
import pycocotools.mask as mask_utils

from densekit.ops.outlines import polygons


def mask_polygons(mask: dict[str, Any]) -> list[np.ndarray]:
    """Polygons (n, 2), x and y in pixels, that together cover a mask in COCO's run-length encoding; without holes."""
    left, top, width, height = (int(value) for value in mask_utils.toBbox(mask))
    inside = mask_utils.decode(mask)[top : top + height, left : left + width]
    return [polygon + np.array([left, top]) for polygon in polygons(inside)]


def one_outline(parts: list[np.ndarray]) -> np.ndarray:
    """Joins polygons to one by lines that are walked there and back, and so enclose nothing.

    Args:
        parts: at least one polygon (n, 2).
    """
    outline, *rest = sorted(parts, key=len, reverse=True)
    while rest:
        gaps = [np.linalg.norm(outline[:, None] - part[None], axis=2) for part in rest]
        nearest = int(np.argmin([gap.min() for gap in gaps]))
        at, to = np.unravel_index(gaps[nearest].argmin(), gaps[nearest].shape)
        part = np.roll(rest.pop(nearest), -int(to), axis=0)
        outline = np.concatenate([outline[: at + 1], part, part[:1], outline[at:]])
    return outline
