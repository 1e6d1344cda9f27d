"""Meta-architectures: the names that densekit uses of ``detectron2.modeling.meta_arch``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.meta_arch import (
        META_ARCH_REGISTRY,
        SEM_SEG_HEADS_REGISTRY,
        GeneralizedRCNN,
        PanopticFPN,
        ProposalNetwork,
        RetinaNet,
        SemanticSegmentor,
        build_model,
        build_sem_seg_head,
    )
else:
    from detectron2.modeling.meta_arch import (
        META_ARCH_REGISTRY,
        SEM_SEG_HEADS_REGISTRY,
        GeneralizedRCNN,
        PanopticFPN,
        ProposalNetwork,
        RetinaNet,
        SemanticSegmentor,
        build_model,
        build_sem_seg_head,
    )

__all__ = [
    "GeneralizedRCNN",
    "META_ARCH_REGISTRY",
    "PanopticFPN",
    "ProposalNetwork",
    "RetinaNet",
    "SEM_SEG_HEADS_REGISTRY",
    "SemanticSegmentor",
    "build_model",
    "build_sem_seg_head",
]
