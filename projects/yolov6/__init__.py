"""YOLOv6 (https://arxiv.org/abs/2209.02976): a one-stage detector that is trained with branches and deployed without."""

from densekit.data.class_counts import CLASS_COUNT_KEYS

from . import backbone as backbone  # registers build_efficientrep_backbone and build_reppan_backbone
from . import meta_arch as meta_arch  # registers YOLOv6Detector
from .config import add_config, shrink

__all__ = ["add_config", "shrink"]

CLASS_COUNT_KEYS["YOLOv6Detector"] = "MODEL.YOLOV6.NUM_CLASSES"
