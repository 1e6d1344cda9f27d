"""Mask outputs: the names that densekit uses of ``detectron2.modeling.roi_heads.mask_head``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.roi_heads.mask_head as host
else:
    import detectron2.modeling.roi_heads.mask_head as host

BaseMaskRCNNHead = host.BaseMaskRCNNHead
MaskRCNNConvUpsampleHead = host.MaskRCNNConvUpsampleHead
ROI_MASK_HEAD_REGISTRY = host.ROI_MASK_HEAD_REGISTRY
build_mask_head = host.build_mask_head
mask_rcnn_inference = host.mask_rcnn_inference
mask_rcnn_loss = host.mask_rcnn_loss
