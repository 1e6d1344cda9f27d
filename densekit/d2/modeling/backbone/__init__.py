"""Backbones: the names that densekit uses of ``detectron2.modeling.backbone``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.backbone as host
else:
    import detectron2.modeling.backbone as host

BACKBONE_REGISTRY = host.BACKBONE_REGISTRY
Backbone = host.Backbone
BasicStem = host.BasicStem
BottleneckBlock = host.BottleneckBlock
FPN = host.FPN
ResNet = host.ResNet
ResNetBlockBase = host.ResNetBlockBase
build_backbone = host.build_backbone
build_resnet_backbone = host.build_resnet_backbone
make_stage = host.make_stage
