"""UPerNet (https://arxiv.org/abs/1807.10221): pyramid pooling, a feature pyramid, and all its levels side by side."""

from . import head as head  # registers UPerHead
from . import weights as weights  # registers the names of its published checkpoints
from .config import add_config

__all__ = ["add_config"]
