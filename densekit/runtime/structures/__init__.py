"""Containers of one image's boxes, masks, keypoints and labels, and of a batch of images."""

from densekit.runtime.structures.boxes import Boxes, BoxMode, pairwise_intersection, pairwise_ioa, pairwise_iou
from densekit.runtime.structures.image_list import ImageList
from densekit.runtime.structures.instances import Instances
from densekit.runtime.structures.keypoints import Keypoints, heatmaps_to_keypoints
from densekit.runtime.structures.masks import BitMasks, PolygonMasks, ROIMasks, polygons_to_bitmask
