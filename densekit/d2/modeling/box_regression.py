"""Box coders: the names that densekit uses of ``detectron2.modeling.box_regression``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.box_regression as host
else:
    import detectron2.modeling.box_regression as host

Box2BoxTransform = host.Box2BoxTransform
Box2BoxTransformLinear = host.Box2BoxTransformLinear
