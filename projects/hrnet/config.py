"""Configuration of HRNet. It is switched on by ``MODEL.BACKBONE.NAME`` or ``MODEL.SEM_SEG_HEAD.NAME``."""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.HRNET`` to ``cfg``; the defaults are HRNet-W32."""
    node = cfg.MODEL.HRNET = CfgNode()
    node.BOTTLENECKS = 4  # blocks of the first stage, which has one branch
    node.BOTTLENECK_CHANNELS = 64  # their inner width
    node.CHANNELS = [32, 64, 128, 256]  # C, 2C, 4C, 8C: of the branches, finest first
    node.MODULES = [1, 4, 3]  # exchanges in the second, third and fourth stage
    node.BLOCKS = 4  # of a branch between two exchanges
    # How maps grow in an exchange: "nearest" by the ratio of strides (classification, detection, pose; sides are padded
    # to multiples of 32), "bilinear" to the size that is needed (segmentation), by SEM_SEG_HEAD.ALIGN_CORNERS.
    # Weights are trained for one of them.
    node.FUSE = "nearest"
    node.NORM = "BN"  # a norm of the host: "BN", "SyncBN", "FrozenBN", "naiveSyncBN" ...
    node.BN_MOMENTUM = 0.1  # the share of a batch in the running statistics; 0.01 in the authors' segmentation
    node.NORM_EVAL = False  # keep the running statistics as they are in training; their weights and biases still learn
    # "kaiming": He's normal weights (classification, detection); "normal": a deviation of 0.001 (segmentation, pose).
    node.INIT = "kaiming"
    # Maps that build_hrnet_backbone returns, of strides 4 to 32. ["res2"] alone is HRNetV1, whose last exchange makes
    # nothing else.
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    node.PYRAMID_POOLING = "avg"  # of build_hrnet_v2p_backbone, or "max"; its width is MODEL.FPN.OUT_CHANNELS
    node.FINAL_KERNEL = 1  # side of the last convolution of HRNetV2Head


def shrink(cfg: CfgNode) -> None:
    """Makes the network of a config small enough to take a step of training in a test."""
    node = cfg.MODEL.HRNET
    node.BOTTLENECKS, node.BOTTLENECK_CHANNELS, node.BLOCKS = 1, 4, 1
    node.CHANNELS, node.MODULES = [4, 8, 16, 32], [1, 1, 1]
