"""Configuration of CaC-Net; where the paper does not say, the README gives the reason for the default."""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.CACNET`` to ``cfg``."""
    node = cfg.MODEL.CACNET = CfgNode()
    node.KERNEL = 3  # s, side of the predicted kernels
    node.DILATIONS = [1, 3, 5]  # of the convolutions with them
    node.HEADS = 2  # modules side by side, with parameters of their own (multi-head ensemble); not in the paper's text
    node.POOLING = True  # a branch with the mean of the map
    node.SHARED_KERNELS = False  # one set of kernels for all dilations
    node.SOFTMAX = False  # over the positions of each query map
    node.SIGMOID_FIRST = False  # squash each dilation's map, then average; else their sum


def shrink(cfg: CfgNode) -> None:
    """Leaves one module and two dilations."""
    cfg.MODEL.CACNET.HEADS = 1
    cfg.MODEL.CACNET.DILATIONS = [1, 2]
