"""Model builders and their registries: the names that densekit uses of ``detectron2.modeling``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling as host
else:
    import detectron2.modeling as host

ANCHOR_GENERATOR_REGISTRY = host.ANCHOR_GENERATOR_REGISTRY
BACKBONE_REGISTRY = host.BACKBONE_REGISTRY
Backbone = host.Backbone
BaseKeypointRCNNHead = host.BaseKeypointRCNNHead
BaseMaskRCNNHead = host.BaseMaskRCNNHead
DatasetMapperTTA = host.DatasetMapperTTA
FPN = host.FPN
FastRCNNOutputLayers = host.FastRCNNOutputLayers
GeneralizedRCNN = host.GeneralizedRCNN
GeneralizedRCNNWithTTA = host.GeneralizedRCNNWithTTA
META_ARCH_REGISTRY = host.META_ARCH_REGISTRY
PROPOSAL_GENERATOR_REGISTRY = host.PROPOSAL_GENERATOR_REGISTRY
PanopticFPN = host.PanopticFPN
ProposalNetwork = host.ProposalNetwork
ROIHeads = host.ROIHeads
ROI_BOX_HEAD_REGISTRY = host.ROI_BOX_HEAD_REGISTRY
ROI_HEADS_REGISTRY = host.ROI_HEADS_REGISTRY
ROI_KEYPOINT_HEAD_REGISTRY = host.ROI_KEYPOINT_HEAD_REGISTRY
ROI_MASK_HEAD_REGISTRY = host.ROI_MASK_HEAD_REGISTRY
RPN_HEAD_REGISTRY = host.RPN_HEAD_REGISTRY
ResNet = host.ResNet
ResNetBlockBase = host.ResNetBlockBase
RetinaNet = host.RetinaNet
SEM_SEG_HEADS_REGISTRY = host.SEM_SEG_HEADS_REGISTRY
SemanticSegmentor = host.SemanticSegmentor
StandardROIHeads = host.StandardROIHeads
build_anchor_generator = host.build_anchor_generator
build_backbone = host.build_backbone
build_box_head = host.build_box_head
build_keypoint_head = host.build_keypoint_head
build_mask_head = host.build_mask_head
build_model = host.build_model
build_proposal_generator = host.build_proposal_generator
build_resnet_backbone = host.build_resnet_backbone
build_roi_heads = host.build_roi_heads
build_rpn_head = host.build_rpn_head
build_sem_seg_head = host.build_sem_seg_head
detector_postprocess = host.detector_postprocess
make_stage = host.make_stage
