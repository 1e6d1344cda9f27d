"""Backbones: the names that densekit uses of ``detectron2.modeling.backbone``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.backbone import (
        BACKBONE_REGISTRY,
        FPN,
        Backbone,
        BasicStem,
        BottleneckBlock,
        ResNet,
        ResNetBlockBase,
        build_backbone,
        build_resnet_backbone,
        make_stage,
    )
else:
    from detectron2.modeling.backbone import (
        BACKBONE_REGISTRY,
        FPN,
        Backbone,
        BasicStem,
        BottleneckBlock,
        ResNet,
        ResNetBlockBase,
        build_backbone,
        build_resnet_backbone,
        make_stage,
    )

__all__ = [
    "BACKBONE_REGISTRY",
    "Backbone",
    "BasicStem",
    "BottleneckBlock",
    "FPN",
    "ResNet",
    "ResNetBlockBase",
    "build_backbone",
    "build_resnet_backbone",
    "make_stage",
]
