"""PointRend (https://arxiv.org/abs/1912.08193): masks and semantic maps rendered point by point."""

from densekit.d2.config import CfgNode
from densekit.data.class_counts import CLASS_COUNTS, host_counts

from . import mask_head as mask_head  # registers PointRendHead and ImplicitPointRendHead
from . import point_semantic_head as point_semantic_head  # registers PointRendSemanticHead
from . import weights as weights  # registers the names of published checkpoints
from .aliases import adapt_config, register_names
from .config import add_config, shrink

register_names()


@CLASS_COUNTS.register()
def point_head_counts(cfg: CfgNode) -> dict[str, str]:
    """The key that repeats the count of the head whose scores the point head refines."""
    refined = ""
    if cfg.MODEL.SEM_SEG_HEAD.NAME == "PointRendSemanticHead":
        refined = "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
    elif "PointRend" in cfg.MODEL.ROI_MASK_HEAD.NAME:
        refined = "MODEL.ROI_HEADS.NUM_CLASSES"
    counted = host_counts(cfg)
    return {"MODEL.POINT_HEAD.NUM_CLASSES": counted[refined]} if refined in counted else {}


__all__ = ["adapt_config", "add_config", "shrink"]
