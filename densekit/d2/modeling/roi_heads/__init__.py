"""Region heads: the names that densekit uses of ``detectron2.modeling.roi_heads``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.roi_heads import (
        ROI_BOX_HEAD_REGISTRY,
        ROI_HEADS_REGISTRY,
        ROI_KEYPOINT_HEAD_REGISTRY,
        ROI_MASK_HEAD_REGISTRY,
        BaseKeypointRCNNHead,
        BaseMaskRCNNHead,
        CascadeROIHeads,
        FastRCNNConvFCHead,
        FastRCNNOutputLayers,
        KRCNNConvDeconvUpsampleHead,
        MaskRCNNConvUpsampleHead,
        Res5ROIHeads,
        ROIHeads,
        StandardROIHeads,
        build_box_head,
        build_keypoint_head,
        build_mask_head,
        build_roi_heads,
        select_foreground_proposals,
    )
else:
    from detectron2.modeling.roi_heads import (
        ROI_BOX_HEAD_REGISTRY,
        ROI_HEADS_REGISTRY,
        ROI_KEYPOINT_HEAD_REGISTRY,
        ROI_MASK_HEAD_REGISTRY,
        BaseKeypointRCNNHead,
        BaseMaskRCNNHead,
        CascadeROIHeads,
        FastRCNNConvFCHead,
        FastRCNNOutputLayers,
        KRCNNConvDeconvUpsampleHead,
        MaskRCNNConvUpsampleHead,
        Res5ROIHeads,
        ROIHeads,
        StandardROIHeads,
        build_box_head,
        build_keypoint_head,
        build_mask_head,
        build_roi_heads,
        select_foreground_proposals,
    )

__all__ = [
    "BaseKeypointRCNNHead",
    "BaseMaskRCNNHead",
    "CascadeROIHeads",
    "FastRCNNConvFCHead",
    "FastRCNNOutputLayers",
    "KRCNNConvDeconvUpsampleHead",
    "MaskRCNNConvUpsampleHead",
    "ROIHeads",
    "ROI_BOX_HEAD_REGISTRY",
    "ROI_HEADS_REGISTRY",
    "ROI_KEYPOINT_HEAD_REGISTRY",
    "ROI_MASK_HEAD_REGISTRY",
    "Res5ROIHeads",
    "StandardROIHeads",
    "build_box_head",
    "build_keypoint_head",
    "build_mask_head",
    "build_roi_heads",
    "select_foreground_proposals",
]
