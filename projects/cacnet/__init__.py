"""CaC-Net: Learning to Predict Context-adaptive Convolution for Semantic Segmentation (arXiv 2004.08222)."""

from . import head as head  # registers CaCHead
from .config import add_config, shrink

__all__ = ["add_config", "shrink"]
