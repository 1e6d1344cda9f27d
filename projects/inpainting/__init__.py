"""Inpainting: Global&Local and partial convolutions, with CARAFE in their decoders."""

from . import evaluator as evaluator  # registers the evaluator
from . import mapper as mapper  # registers InpaintingMapper
from . import meta_arch as meta_arch  # registers Inpainter
from . import weights as weights  # registers the names of published checkpoints
from .config import add_config, shrink
from .places import register_places

__all__ = ["add_config", "shrink"]

register_places()
