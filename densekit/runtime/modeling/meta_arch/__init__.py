"""Whole models: what ``MODEL.META_ARCHITECTURE`` names."""

from densekit.runtime.modeling.meta_arch.build import META_ARCH_REGISTRY, build_model
from densekit.runtime.modeling.meta_arch.dense_detector import DenseDetector
from densekit.runtime.modeling.meta_arch.panoptic_fpn import PanopticFPN
from densekit.runtime.modeling.meta_arch.rcnn import GeneralizedRCNN, ProposalNetwork
from densekit.runtime.modeling.meta_arch.retinanet import RetinaNet
from densekit.runtime.modeling.meta_arch.semantic_seg import (
    SEM_SEG_HEADS_REGISTRY,
    SemanticSegmentor,
    build_sem_seg_head,
)
