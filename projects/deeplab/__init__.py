"""DeepLabV3+ (https://arxiv.org/abs/1802.02611): atrous spatial pyramid pooling and a decoder on the finer maps."""

from . import head as head  # registers DeepLabV3PlusSemanticHead
from .config import add_config, shrink

__all__ = ["add_config", "shrink"]
