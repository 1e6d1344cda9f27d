"""The R-CNN line as it was published: Fast R-CNN's box head with truncated matrices, and where poolers sample."""

from . import box_head as box_head  # registers TruncatedFCHead
from .config import add_config, shrink

__all__ = ["add_config", "shrink"]
