"""Configuration of DeepLabV3+: keys of Detectron2's DeepLab project, below ``MODEL.SEM_SEG_HEAD``."""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds the head's keys to ``MODEL.SEM_SEG_HEAD``."""
    cfg.MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS = [48]  # of each map but the coarsest, finest first, in the decoder
    cfg.MODEL.SEM_SEG_HEAD.ASPP_CHANNELS = 256  # of the pyramid pooling
    cfg.MODEL.SEM_SEG_HEAD.ASPP_DILATIONS = [6, 12, 18]  # for a coarsest map of stride 16; twice that for stride 8
    cfg.MODEL.SEM_SEG_HEAD.ASPP_DROPOUT = 0.1  # on the output of the pyramid pooling
    cfg.MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV = False  # in the pyramid pooling and the decoder


def shrink(cfg: CfgNode) -> None:
    """Narrows the pyramid pooling, so that a step takes well under a second."""
    cfg.MODEL.SEM_SEG_HEAD.ASPP_CHANNELS = 32  # group norm has 32 groups
