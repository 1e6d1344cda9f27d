"""Any region heads of the host with poolers that the host does not have."""

from typing import Any

from torch import nn

from densekit.d2.config import CfgNode
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import ROI_HEADS_REGISTRY
from densekit.d2.modeling.poolers import ROIPooler
from densekit.layers.roi_warp import RoIWarp

__all__ = ["RegionPoolingHeads", "add_config"]

_STAND_IN = "ROIAlignV2"  # is built and then replaced
_BRANCHES = ("ROI_BOX_HEAD", "ROI_MASK_HEAD", "ROI_KEYPOINT_HEAD")


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.REGION_POOLING``, which ``MODEL.ROI_HEADS.NAME`` "RegionPoolingHeads" reads."""
    cfg.MODEL.REGION_POOLING = CfgNode()
    # The region heads that are built. Beside the host's values, each POOLER_TYPE may then be "ROIWarp".
    cfg.MODEL.REGION_POOLING.HEADS = "StandardROIHeads"  # another name of ROI_HEADS_REGISTRY


@ROI_HEADS_REGISTRY.register()
def RegionPoolingHeads(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:  # noqa: N802 (a registry name)
    """Builds the heads named by ``MODEL.REGION_POOLING.HEADS``, with RoIWarp wherever a ``POOLER_TYPE`` asks for it.

    Poolers have no weights, so that a checkpoint fits the heads with any of them.

    Raises:
        ValueError: The heads are named to be these.
    """
    name = cfg.MODEL.REGION_POOLING.HEADS
    if name == cfg.MODEL.ROI_HEADS.NAME:
        raise ValueError(f"MODEL.REGION_POOLING.HEADS is {name!r} itself: name the heads, such as StandardROIHeads.")
    inner = cfg.clone()
    inner.defrost()
    inner.MODEL.ROI_HEADS.NAME = name
    warped = [branch for branch in _BRANCHES if cfg.MODEL[branch].POOLER_TYPE == "ROIWarp"]
    for branch in warped:
        inner.MODEL[branch].POOLER_TYPE = _STAND_IN
    inner.freeze()
    heads = ROI_HEADS_REGISTRY.get(name)(inner, input_shape)
    for path, part in heads.named_modules():
        if isinstance(part, ROIPooler) and _branch(path, cfg) in warped:
            _warp(part)
    return heads


def _branch(path: str, cfg: CfgNode) -> str:
    """The node of the configuration that chose a pooler's type, from its name in the heads."""
    attribute = path.rpartition(".")[2]
    branch = next((b for b, word in zip(_BRANCHES[1:], ("mask", "keypoint")) if word in attribute), _BRANCHES[0])
    # A head without a pooler of its own pools as the box head does.
    return branch if cfg.MODEL[branch].POOLER_TYPE else _BRANCHES[0]


def _warp(pooler: Any) -> None:
    size = tuple(pooler.output_size)
    pooler.level_poolers = nn.ModuleList(RoIWarp(size, level.spatial_scale) for level in pooler.level_poolers)
