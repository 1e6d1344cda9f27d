"""Panoptic merging: the names that densekit uses of ``detectron2.modeling.meta_arch.panoptic_fpn``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.meta_arch.panoptic_fpn import (
        PanopticFPN,
        combine_semantic_and_instance_outputs,
    )
else:
    from detectron2.modeling.meta_arch.panoptic_fpn import PanopticFPN, combine_semantic_and_instance_outputs

__all__ = ["PanopticFPN", "combine_semantic_and_instance_outputs"]
