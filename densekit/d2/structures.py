"""Boxes, masks, keypoints and their containers: the names that densekit uses of ``detectron2.structures``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.structures as host
else:
    import detectron2.structures as host

BitMasks = host.BitMasks
BoxMode = host.BoxMode
Boxes = host.Boxes
ImageList = host.ImageList
Instances = host.Instances
Keypoints = host.Keypoints
PolygonMasks = host.PolygonMasks
ROIMasks = host.ROIMasks
heatmaps_to_keypoints = host.heatmaps_to_keypoints
pairwise_ioa = host.pairwise_ioa
pairwise_iou = host.pairwise_iou
polygons_to_bitmask = host.polygons_to_bitmask
