"""Feature pyramid: the names that densekit uses of ``detectron2.modeling.backbone.fpn``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.backbone.fpn as host
else:
    import detectron2.modeling.backbone.fpn as host

FPN = host.FPN
LastLevelMaxPool = host.LastLevelMaxPool
LastLevelP6P7 = host.LastLevelP6P7
build_resnet_fpn_backbone = host.build_resnet_fpn_backbone
