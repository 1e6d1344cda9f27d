"""DETR: set prediction with Hungarian matching, and its panoptic head."""

from densekit.d2.config import CfgNode
from densekit.d2.modeling import META_ARCH_REGISTRY
from densekit.data.class_counts import CLASS_COUNTS, THINGS
from densekit.modeling.aliases import also_known_as

from . import mapper as mapper  # registers DetrDatasetMapper
from . import scenes as scenes  # registers views of the street scenes
from . import weights as weights  # registers the names of published checkpoints
from .config import adapt_config, add_config, shrink
from .meta_arch import DetrDetector  # registers it

__all__ = ["adapt_config", "add_config", "shrink"]

also_known_as(META_ARCH_REGISTRY, "Detr", DetrDetector)  # for configs that are merged without load_config


@CLASS_COUNTS.register()
def detr_counts(cfg: CfgNode) -> dict[str, str]:
    """The key that counts the classes of its queries."""
    return {"MODEL.DETR.NUM_CLASSES": THINGS} if cfg.MODEL.META_ARCHITECTURE in ("DetrDetector", "Detr") else {}
