"""Semantic segmentation: the names that densekit uses of ``detectron2.modeling.meta_arch.semantic_seg``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.meta_arch.semantic_seg as host
else:
    import detectron2.modeling.meta_arch.semantic_seg as host

SEM_SEG_HEADS_REGISTRY = host.SEM_SEG_HEADS_REGISTRY
SemSegFPNHead = host.SemSegFPNHead
SemanticSegmentor = host.SemanticSegmentor
build_sem_seg_head = host.build_sem_seg_head
