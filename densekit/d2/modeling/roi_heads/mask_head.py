"""Mask outputs: the names that densekit uses of ``detectron2.modeling.roi_heads.mask_head``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.roi_heads.mask_head import (
        ROI_MASK_HEAD_REGISTRY,
        BaseMaskRCNNHead,
        MaskRCNNConvUpsampleHead,
        build_mask_head,
        mask_rcnn_inference,
        mask_rcnn_loss,
    )
else:
    from detectron2.modeling.roi_heads.mask_head import (
        ROI_MASK_HEAD_REGISTRY,
        BaseMaskRCNNHead,
        MaskRCNNConvUpsampleHead,
        build_mask_head,
        mask_rcnn_inference,
        mask_rcnn_loss,
    )

__all__ = [
    "BaseMaskRCNNHead",
    "MaskRCNNConvUpsampleHead",
    "ROI_MASK_HEAD_REGISTRY",
    "build_mask_head",
    "mask_rcnn_inference",
    "mask_rcnn_loss",
]
