"""OCR: object-contextual representations for semantic segmentation (https://arxiv.org/abs/1909.11065)."""

from . import head as head  # registers OCRHead
from . import weights as weights  # registers the vocabulary of its checkpoints
from .config import add_config, shrink

__all__ = ["add_config", "shrink"]
