"""RetinaNet: the names that densekit uses of ``detectron2.modeling.meta_arch.retinanet``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead
else:
    from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead

__all__ = ["RetinaNet", "RetinaNetHead"]
