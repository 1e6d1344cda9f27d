"""Feature pyramid: the names that densekit uses of ``detectron2.modeling.backbone.fpn``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.backbone.fpn import (
        FPN,
        LastLevelMaxPool,
        LastLevelP6P7,
        build_resnet_fpn_backbone,
    )
else:
    from detectron2.modeling.backbone.fpn import (
        FPN,
        LastLevelMaxPool,
        LastLevelP6P7,
        build_resnet_fpn_backbone,
    )

__all__ = ["FPN", "LastLevelMaxPool", "LastLevelP6P7", "build_resnet_fpn_backbone"]
