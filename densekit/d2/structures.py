"""Boxes, masks, keypoints and their containers: the names that densekit uses of ``detectron2.structures``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.structures import (
        BitMasks,
        Boxes,
        BoxMode,
        ImageList,
        Instances,
        Keypoints,
        PolygonMasks,
        ROIMasks,
        heatmaps_to_keypoints,
        pairwise_ioa,
        pairwise_iou,
        polygons_to_bitmask,
    )
else:
    from detectron2.structures import (
        BitMasks,
        Boxes,
        BoxMode,
        ImageList,
        Instances,
        Keypoints,
        PolygonMasks,
        ROIMasks,
        heatmaps_to_keypoints,
        pairwise_ioa,
        pairwise_iou,
        polygons_to_bitmask,
    )

__all__ = [
    "BitMasks",
    "BoxMode",
    "Boxes",
    "ImageList",
    "Instances",
    "Keypoints",
    "PolygonMasks",
    "ROIMasks",
    "heatmaps_to_keypoints",
    "pairwise_ioa",
    "pairwise_iou",
    "polygons_to_bitmask",
]
