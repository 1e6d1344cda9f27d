"""Shipped configs made small enough to train a step of them in a test.

What belongs to a system is its own ``shrink``'s; here are the widths of the host and of the parts that systems share.
"""

from pathlib import Path

from densekit.config import load_config
from densekit.d2.config import CfgNode
from densekit.projects import shrink_all

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if "_base_" not in path.parts)

_SHRINK = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_MASK_HEAD.FC_DIM": 16,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,  # group norm has 32 groups
    "MODEL.SEM_SEG_HEAD.AUXILIARY.CONVS_DIM": 32,
    "TEST.DETECTIONS_PER_IMAGE": 5,
}


def shrunken(path: Path) -> CfgNode:
    """The config of a file, not frozen, on the CPU, from random weights and narrow."""
    cfg = load_config(str(path), [])
    cfg.merge_from_list([item for pair in _SHRINK.items() for item in pair])
    depth = min(cfg.MODEL.RESNETS.DEPTH, 50)
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    if depth < 50:  # ResNet-18 and -34 have one width
        cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    width = 16
    if cfg.MODEL.RESNETS.NORM == "GN":  # which normalises 32 groups of channels
        width = cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 32
        cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
        cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = width
    if cfg.MODEL.RESNETS.NUM_GROUPS > 1:
        cfg.MODEL.RESNETS.NUM_GROUPS = 2
    if cfg.MODEL.ROI_BOX_HEAD.NUM_CONV:
        cfg.MODEL.ROI_BOX_HEAD.CONV_DIM = width
    if cfg.MODEL.ROI_BOX_HEAD.NUM_FC:
        cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [16] * len(cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS)
    shrink_all(cfg)
    return cfg


def folders() -> list[str]:
    """Where configs are, below ``configs``: a system's folder or a task's."""
    return sorted({path.parent.name for path in CONFIGS})
