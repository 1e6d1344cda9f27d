"""Any pyramid of torchvision's classifiers (https://docs.pytorch.org/vision/stable/models.html), by its name."""

from . import backbone as backbone  # registers TorchvisionBackbone
from .config import add_config, shrink

__all__ = ["add_config", "shrink"]
