"""Panoptic merging: the names that densekit uses of ``detectron2.modeling.meta_arch.panoptic_fpn``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.meta_arch.panoptic_fpn as host
else:
    import detectron2.modeling.meta_arch.panoptic_fpn as host

PanopticFPN = host.PanopticFPN
combine_semantic_and_instance_outputs = host.combine_semantic_and_instance_outputs
