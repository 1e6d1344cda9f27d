"""DETR: set prediction with Hungarian matching, and its panoptic head."""

from densekit.data.class_counts import CLASS_COUNT_KEYS

from . import mapper as mapper  # registers DetrDatasetMapper
from . import meta_arch as meta_arch  # registers Detr
from . import scenes as scenes  # registers views of the street scenes
from .config import adapt_config, add_config

__all__ = ["adapt_config", "add_config"]

CLASS_COUNT_KEYS["Detr"] = "MODEL.DETR.NUM_CLASSES"
