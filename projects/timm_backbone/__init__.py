"""Any backbone of timm (https://github.com/huggingface/pytorch-image-models), by its name."""

from . import backbone as backbone  # registers TimmBackbone
from . import weights as weights  # names in weight files
from .config import add_config, shrink

__all__ = ["add_config", "shrink"]
