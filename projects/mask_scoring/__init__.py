"""Mask Scoring R-CNN (https://arxiv.org/abs/1903.00241): a head that predicts how good each mask is."""

from densekit.data.class_counts import CLASS_COUNT_KEYS

from . import anchors as anchors  # registers WholePixelAnchorGenerator
from . import roi_heads as roi_heads  # registers MaskScoringROIHeads and MaskScoringCascadeROIHeads
from . import upper_bound as upper_bound  # registers TruthfulRCNN and TruthfulMapper
from .config import adapt_config, add_config

__all__ = ["adapt_config", "add_config"]

CLASS_COUNT_KEYS["TruthfulRCNN"] = CLASS_COUNT_KEYS["GeneralizedRCNN"]
