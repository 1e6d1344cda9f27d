"""The R-CNN line as it was published: R-CNN's stages, Fast R-CNN's truncated matrices, Mask R-CNN's ablations."""

from densekit.d2.config import CfgNode
from densekit.data.class_counts import CLASS_COUNTS, THINGS

from . import box_head as box_head  # registers TruncatedFCHead
from . import grid_neck as grid_neck  # registers build_grid_of_map
from . import mask_heads as mask_heads  # registers SoftmaxMaskHead and MLPMaskHead
from . import meta_arch as meta_arch  # registers RCNN
from .config import add_config, shrink

__all__ = ["add_config", "shrink"]


@CLASS_COUNTS.register()
def rcnn_counts(cfg: CfgNode) -> dict[str, str]:
    """The key that counts the classes of R-CNN's SVMs."""
    return {"MODEL.ROI_HEADS.NUM_CLASSES": THINGS} if cfg.MODEL.META_ARCHITECTURE == "RCNN" else {}
