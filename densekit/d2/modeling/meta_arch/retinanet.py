"""RetinaNet: the names that densekit uses of ``detectron2.modeling.meta_arch.retinanet``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.meta_arch.retinanet as host
else:
    import detectron2.modeling.meta_arch.retinanet as host

RetinaNet = host.RetinaNet
RetinaNetHead = host.RetinaNetHead
