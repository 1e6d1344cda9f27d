"""Region heads: the names that densekit uses of ``detectron2.modeling.roi_heads``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.roi_heads as host
else:
    import detectron2.modeling.roi_heads as host

BaseKeypointRCNNHead = host.BaseKeypointRCNNHead
BaseMaskRCNNHead = host.BaseMaskRCNNHead
CascadeROIHeads = host.CascadeROIHeads
FastRCNNConvFCHead = host.FastRCNNConvFCHead
FastRCNNOutputLayers = host.FastRCNNOutputLayers
KRCNNConvDeconvUpsampleHead = host.KRCNNConvDeconvUpsampleHead
MaskRCNNConvUpsampleHead = host.MaskRCNNConvUpsampleHead
ROIHeads = host.ROIHeads
ROI_BOX_HEAD_REGISTRY = host.ROI_BOX_HEAD_REGISTRY
ROI_HEADS_REGISTRY = host.ROI_HEADS_REGISTRY
ROI_KEYPOINT_HEAD_REGISTRY = host.ROI_KEYPOINT_HEAD_REGISTRY
ROI_MASK_HEAD_REGISTRY = host.ROI_MASK_HEAD_REGISTRY
Res5ROIHeads = host.Res5ROIHeads
StandardROIHeads = host.StandardROIHeads
build_box_head = host.build_box_head
build_keypoint_head = host.build_keypoint_head
build_mask_head = host.build_mask_head
build_roi_heads = host.build_roi_heads
select_foreground_proposals = host.select_foreground_proposals
