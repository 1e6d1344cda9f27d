"""The keys of the parts that several systems share; each part declares its own, beside itself."""

from densekit.d2.config import CfgNode
from densekit.modeling import (
    dilated_resnet,
    fcn_head,
    fpn,
    image_classifier,
    image_sized_segmentor,
    mask_head,
    region_pooling,
    semantic_inference,
    semantic_losses,
    upsampling,
)

_PARTS = (
    upsampling,
    fpn,
    mask_head,
    fcn_head,
    semantic_losses,
    semantic_inference,
    dilated_resnet,
    image_classifier,
    region_pooling,
    image_sized_segmentor,
)


def add_modeling_config(cfg: CfgNode) -> None:
    """Adds the keys of every shared part to ``cfg``."""
    for part in _PARTS:
        part.add_config(cfg)
