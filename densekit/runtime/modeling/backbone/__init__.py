"""Backbones: modules that turn an image batch into named feature maps."""

from densekit.runtime.modeling.backbone.backbone import BACKBONE_REGISTRY, Backbone, build_backbone
from densekit.runtime.modeling.backbone.fpn import FPN
from densekit.runtime.modeling.backbone.resnet import (
    BasicStem,
    BottleneckBlock,
    ResNet,
    ResNetBlockBase,
    build_resnet_backbone,
    make_stage,
)
