"""Residual networks: the names that densekit uses of ``detectron2.modeling.backbone.resnet``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.backbone.resnet import (
        BasicBlock,
        BasicStem,
        BottleneckBlock,
        DeformBottleneckBlock,
        ResNet,
        build_resnet_backbone,
        make_stage,
    )
else:
    from detectron2.modeling.backbone.resnet import (
        BasicBlock,
        BasicStem,
        BottleneckBlock,
        DeformBottleneckBlock,
        ResNet,
        build_resnet_backbone,
        make_stage,
    )

__all__ = [
    "BasicBlock",
    "BasicStem",
    "BottleneckBlock",
    "DeformBottleneckBlock",
    "ResNet",
    "build_resnet_backbone",
    "make_stage",
]
