"""DETR: set prediction with Hungarian matching, and its panoptic head."""

from densekit.d2.modeling import META_ARCH_REGISTRY
from densekit.data.class_counts import CLASS_COUNT_KEYS
from densekit.modeling.aliases import also_known_as

from . import mapper as mapper  # registers DetrDatasetMapper
from . import scenes as scenes  # registers views of the street scenes
from . import weights as weights  # registers the names of published checkpoints
from .config import adapt_config, add_config, shrink
from .meta_arch import DetrDetector  # registers it

__all__ = ["adapt_config", "add_config", "shrink"]

also_known_as(META_ARCH_REGISTRY, "Detr", DetrDetector)  # for configs that are merged without load_config
CLASS_COUNT_KEYS["DetrDetector"] = CLASS_COUNT_KEYS["Detr"] = "MODEL.DETR.NUM_CLASSES"
