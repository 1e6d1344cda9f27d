"""Meta-architectures: the names that densekit uses of ``detectron2.modeling.meta_arch``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.meta_arch as host
else:
    import detectron2.modeling.meta_arch as host

GeneralizedRCNN = host.GeneralizedRCNN
META_ARCH_REGISTRY = host.META_ARCH_REGISTRY
PanopticFPN = host.PanopticFPN
ProposalNetwork = host.ProposalNetwork
RetinaNet = host.RetinaNet
SEM_SEG_HEADS_REGISTRY = host.SEM_SEG_HEADS_REGISTRY
SemanticSegmentor = host.SemanticSegmentor
build_model = host.build_model
build_sem_seg_head = host.build_sem_seg_head
