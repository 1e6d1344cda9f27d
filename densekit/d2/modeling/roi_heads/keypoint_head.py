"""Keypoint outputs: the names that densekit uses of ``detectron2.modeling.roi_heads.keypoint_head``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.roi_heads.keypoint_head import (
        ROI_KEYPOINT_HEAD_REGISTRY,
        BaseKeypointRCNNHead,
        KRCNNConvDeconvUpsampleHead,
        build_keypoint_head,
        keypoint_rcnn_inference,
        keypoint_rcnn_loss,
    )
else:
    from detectron2.modeling.roi_heads.keypoint_head import (
        ROI_KEYPOINT_HEAD_REGISTRY,
        BaseKeypointRCNNHead,
        KRCNNConvDeconvUpsampleHead,
        build_keypoint_head,
        keypoint_rcnn_inference,
        keypoint_rcnn_loss,
    )

__all__ = [
    "BaseKeypointRCNNHead",
    "KRCNNConvDeconvUpsampleHead",
    "ROI_KEYPOINT_HEAD_REGISTRY",
    "build_keypoint_head",
    "keypoint_rcnn_inference",
    "keypoint_rcnn_loss",
]
