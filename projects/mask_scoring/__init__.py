"""Mask Scoring R-CNN (https://arxiv.org/abs/1903.00241): a head that predicts how good each mask is."""

from . import roi_heads as roi_heads  # registers MaskScoringROIHeads and MaskScoringCascadeROIHeads
from .config import add_config

__all__ = ["add_config"]
