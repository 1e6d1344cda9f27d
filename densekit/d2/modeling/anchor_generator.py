"""Anchors: the names that densekit uses of ``detectron2.modeling.anchor_generator``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.anchor_generator as host
else:
    import detectron2.modeling.anchor_generator as host

ANCHOR_GENERATOR_REGISTRY = host.ANCHOR_GENERATOR_REGISTRY
DefaultAnchorGenerator = host.DefaultAnchorGenerator
build_anchor_generator = host.build_anchor_generator
