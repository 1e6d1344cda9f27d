"""YOLOv6 (https://arxiv.org/abs/2209.02976): a detector trained with branches and deployed without."""

from densekit.d2.config import CfgNode
from densekit.data.class_counts import CLASS_COUNTS, THINGS

from . import backbone as backbone  # registers build_efficientrep_backbone and build_reppan_backbone
from . import mapper as mapper  # registers YOLOv6Mapper
from . import meta_arch as meta_arch  # registers YOLOv6Detector
from . import solver as solver  # registers RepOptimizer
from . import weights as weights  # registers the names of published checkpoints
from .config import add_config, shrink

__all__ = ["add_config", "shrink"]


@CLASS_COUNTS.register()
def yolov6_counts(cfg: CfgNode) -> dict[str, str]:
    """The key that counts the classes of its head."""
    return {"MODEL.YOLOV6.NUM_CLASSES": THINGS} if cfg.MODEL.META_ARCHITECTURE == "YOLOv6Detector" else {}
