"""Configuration of the R-CNN line. Fast R-CNN's sampling, RoIPool and loss are keys of the host."""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.FAST_RCNN`` to ``cfg``."""
    cfg.MODEL.FAST_RCNN = CfgNode()
    # With MODEL.ROI_BOX_HEAD.NAME TruncatedFCHead: t of section 3.1, how many singular values each linear layer keeps
    # in inference, the first layer first; 0 leaves a layer as it is. The paper has [1024, 256] for VGG16.
    cfg.MODEL.FAST_RCNN.SVD_RANKS = []  # none: the layers as they were trained


def shrink(cfg: CfgNode) -> None:
    """Lets narrow layers keep few singular values."""
    cfg.MODEL.FAST_RCNN.SVD_RANKS = [min(rank, 4) for rank in cfg.MODEL.FAST_RCNN.SVD_RANKS]
