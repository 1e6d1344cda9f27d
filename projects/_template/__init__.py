"""Template: the smallest complete system. Copy this folder, rename it, and add the name to ``projects/__init__.py``."""

from . import box_head as box_head  # registers TemplateBoxHead
from . import weights as weights  # registers the names of its published checkpoints
from .config import add_config, shrink

__all__ = ["add_config", "shrink"]
