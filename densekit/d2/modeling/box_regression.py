"""Box coders: the names that densekit uses of ``detectron2.modeling.box_regression``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.box_regression import Box2BoxTransform, Box2BoxTransformLinear
else:
    from detectron2.modeling.box_regression import Box2BoxTransform, Box2BoxTransformLinear

__all__ = ["Box2BoxTransform", "Box2BoxTransformLinear"]
