"""Residual networks: the names that densekit uses of ``detectron2.modeling.backbone.resnet``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.backbone.resnet as host
else:
    import detectron2.modeling.backbone.resnet as host

BasicBlock = host.BasicBlock
BasicStem = host.BasicStem
BottleneckBlock = host.BottleneckBlock
DeformBottleneckBlock = host.DeformBottleneckBlock
ResNet = host.ResNet
build_resnet_backbone = host.build_resnet_backbone
make_stage = host.make_stage
