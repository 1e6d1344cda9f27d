"""Mask Scoring R-CNN (https://arxiv.org/abs/1903.00241): a head that predicts how good each mask is."""

from densekit.d2.config import CfgNode
from densekit.data.class_counts import CLASS_COUNTS, THINGS

from . import anchors as anchors  # registers WholePixelAnchorGenerator
from . import roi_heads as roi_heads  # registers MaskScoringROIHeads and MaskScoringCascadeROIHeads
from . import upper_bound as upper_bound  # registers TruthfulRCNN and TruthfulMapper
from . import weights as weights  # registers the names of published checkpoints
from .config import adapt_config, add_config, shrink

__all__ = ["adapt_config", "add_config", "shrink"]


@CLASS_COUNTS.register()
def truthful_counts(cfg: CfgNode) -> dict[str, str]:
    """The key of the host's detector, which the upper bound runs under a name of its own."""
    return {"MODEL.ROI_HEADS.NUM_CLASSES": THINGS} if cfg.MODEL.META_ARCHITECTURE == "TruthfulRCNN" else {}
