"""Semantic segmentation: the names that densekit uses of ``detectron2.modeling.meta_arch.semantic_seg``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.meta_arch.semantic_seg import (
        SEM_SEG_HEADS_REGISTRY,
        SemanticSegmentor,
        SemSegFPNHead,
        build_sem_seg_head,
    )
else:
    from detectron2.modeling.meta_arch.semantic_seg import (
        SEM_SEG_HEADS_REGISTRY,
        SemanticSegmentor,
        SemSegFPNHead,
        build_sem_seg_head,
    )

__all__ = ["SEM_SEG_HEADS_REGISTRY", "SemSegFPNHead", "SemanticSegmentor", "build_sem_seg_head"]
