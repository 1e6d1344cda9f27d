"""Swin Transformer: a hierarchical vision transformer with shifted windows, as a backbone and as a classifier."""

import densekit.modeling  # noqa: F401 - registers build_fpn_backbone

from . import weights as weights  # registers the names of its published checkpoints
from .backbone import build_swin_backbone  # registers it
from .config import add_config, shrink

__all__ = ["add_config", "build_swin_backbone", "shrink"]
