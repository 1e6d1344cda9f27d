"""Configuration of OCR. It is switched on by ``MODEL.SEM_SEG_HEAD.NAME OCRHead``."""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.OCR``; ``MODEL.SEM_SEG_HEAD.CONVS_DIM`` are the channels of a pixel, 512 in the paper's."""
    node = cfg.MODEL.OCR = CfgNode()
    node.KEY_CHANNELS = 256  # of the queries and keys of the attention
    node.DROPOUT = 0.05  # probability that a channel is dropped before the classifier
    node.REGION_LOSS_WEIGHT = 0.4  # of the coarse scores, which make the regions


def shrink(cfg: CfgNode) -> None:
    """Makes the head of a config small enough to take a step of training in a test."""
    cfg.MODEL.OCR.KEY_CHANNELS = 8
    if cfg.MODEL.SEM_SEG_HEAD.NAME == "OCRHead":
        cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 16
