"""MPViT: Multi-Path Vision Transformer for Dense Prediction (arXiv 2112.11010), a backbone for any system."""

from . import backbone as backbone  # registers MPViTBackbone
from . import weights as weights  # names in weight files
from .config import add_config, shrink

__all__ = ["add_config", "shrink"]
