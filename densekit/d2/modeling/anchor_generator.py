"""Anchors: the names that densekit uses of ``detectron2.modeling.anchor_generator``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.anchor_generator import (
        ANCHOR_GENERATOR_REGISTRY,
        DefaultAnchorGenerator,
        build_anchor_generator,
    )
else:
    from detectron2.modeling.anchor_generator import (
        ANCHOR_GENERATOR_REGISTRY,
        DefaultAnchorGenerator,
        build_anchor_generator,
    )

__all__ = ["ANCHOR_GENERATOR_REGISTRY", "DefaultAnchorGenerator", "build_anchor_generator"]
