"""Detectron2's names for PointRend's parts, read as densekit's.

Detectron2's bundled project registers its parts under these names as soon as anything imports it, and a registry
refuses a name twice. densekit's parts therefore have names of their own, and configs are translated as they are loaded.
"""

import logging

from densekit.d2.config import CfgNode
from densekit.d2.modeling import ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY, SEM_SEG_HEADS_REGISTRY
from densekit.d2.modeling.roi_heads import StandardROIHeads
from densekit.modeling.aliases import also_known_as

from .mask_head import ImplicitPointRendHead, PointRendHead
from .point_semantic_head import PointRendSemanticHead

_MASK_HEADS = {"PointRendMaskHead": "PointRendHead", "ImplicitPointRendMaskHead": "ImplicitPointRendHead"}
# Before its heads took whole maps, the project had this one and region heads that fed it.
_OLD_MASK_HEAD, _OLD_ROI_HEADS = "CoarseMaskHead", "PointRendROIHeads"


def adapt_config(cfg: CfgNode) -> None:
    """Translates the names in a merged config, those of old files too."""
    model = cfg.MODEL
    before = (model.ROI_HEADS.NAME, model.ROI_MASK_HEAD.NAME, model.SEM_SEG_HEAD.NAME)
    if model.ROI_HEADS.NAME == _OLD_ROI_HEADS:
        model.ROI_HEADS.NAME = "StandardROIHeads"
    if model.ROI_MASK_HEAD.NAME == _OLD_MASK_HEAD:
        model.ROI_MASK_HEAD.NAME, model.ROI_MASK_HEAD.POOLER_TYPE = "PointRendHead", ""
    model.ROI_MASK_HEAD.NAME = _MASK_HEADS.get(model.ROI_MASK_HEAD.NAME, model.ROI_MASK_HEAD.NAME)
    if model.SEM_SEG_HEAD.NAME == "PointRendSemSegHead":
        model.SEM_SEG_HEAD.NAME = "PointRendSemanticHead"
        # That project's launcher has a mapper of its own for this head.
        cfg.INPUT.MAPPER = cfg.INPUT.MAPPER or "CropAfterResizeMapper"
    after = (model.ROI_HEADS.NAME, model.ROI_MASK_HEAD.NAME, model.SEM_SEG_HEAD.NAME)
    for old, new in zip(before, after):
        if old != new:
            logging.getLogger(__name__).info(f"{old} of Detectron2's PointRend is densekit's {new}")


def register_names() -> None:
    """Makes Detectron2's names known where they are free, for configs that are merged without ``load_config``."""
    also_known_as(ROI_MASK_HEAD_REGISTRY, "PointRendMaskHead", PointRendHead)
    also_known_as(ROI_MASK_HEAD_REGISTRY, "ImplicitPointRendMaskHead", ImplicitPointRendHead)
    also_known_as(SEM_SEG_HEADS_REGISTRY, "PointRendSemSegHead", PointRendSemanticHead)
    also_known_as(ROI_HEADS_REGISTRY, _OLD_ROI_HEADS, StandardROIHeads)
