"""SPNet: Strip Pooling: Rethinking Spatial Pooling for Scene Parsing (arXiv 2003.13328)."""

from . import backbone as backbone  # registers SPNetResNet
from . import head as head  # registers SPNetHead
from . import weights as weights  # names in weight files
from .config import add_config, shrink

__all__ = ["add_config", "shrink"]
