"""Keypoint outputs: the names that densekit uses of ``detectron2.modeling.roi_heads.keypoint_head``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.roi_heads.keypoint_head as host
else:
    import detectron2.modeling.roi_heads.keypoint_head as host

BaseKeypointRCNNHead = host.BaseKeypointRCNNHead
KRCNNConvDeconvUpsampleHead = host.KRCNNConvDeconvUpsampleHead
ROI_KEYPOINT_HEAD_REGISTRY = host.ROI_KEYPOINT_HEAD_REGISTRY
build_keypoint_head = host.build_keypoint_head
keypoint_rcnn_inference = host.keypoint_rcnn_inference
keypoint_rcnn_loss = host.keypoint_rcnn_loss
