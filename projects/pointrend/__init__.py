"""PointRend (https://arxiv.org/abs/1912.08193): masks and semantic maps rendered point by point."""

from densekit.d2.config import CfgNode
from densekit.data.class_counts import COUNT_COPIES

from . import mask_head as mask_head  # registers PointRendHead and ImplicitPointRendHead
from . import semantic as semantic  # registers PointRendSemanticHead
from . import weights as weights  # registers the names of published checkpoints
from .config import add_config, shrink
from .names import adapt_config, register_names

register_names()


def _refined(cfg: CfgNode) -> str:
    """The key that counts the classes of the head whose scores the point head refines."""
    if cfg.MODEL.SEM_SEG_HEAD.NAME == "PointRendSemanticHead":
        return "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
    return "MODEL.ROI_HEADS.NUM_CLASSES" if "PointRend" in cfg.MODEL.ROI_MASK_HEAD.NAME else ""


COUNT_COPIES["MODEL.POINT_HEAD.NUM_CLASSES"] = _refined

__all__ = ["adapt_config", "add_config", "shrink"]
