"""PointRend (https://arxiv.org/abs/1912.08193): masks and semantic maps rendered point by point."""

from . import mask_head as mask_head  # registers PointRendHead and ImplicitPointRendHead
from . import semantic as semantic  # registers PointRendSemanticHead
from .config import add_config
from .names import adapt_config, register_names

register_names()

__all__ = ["adapt_config", "add_config"]
