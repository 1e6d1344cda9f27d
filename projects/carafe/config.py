"""Configuration of CARAFE: the hyper-parameters of the layer, wherever a key names it.

``MODEL.FPN.UPSAMPLER`` and ``MODEL.ROI_MASK_HEAD.UPSAMPLER``, which say where that is, belong to densekit.
"""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.CARAFE`` to ``cfg``."""
    cfg.MODEL.CARAFE = CfgNode()
    cfg.MODEL.CARAFE.UP_KERNEL = 5  # k_up, side of the reassembly window
    cfg.MODEL.CARAFE.UP_GROUP = 1  # runs of channels with a kernel of their own; the paper has one
    # The side of the content encoder's convolution; the paper's rule is k_up - 2.
    cfg.MODEL.CARAFE.ENCODER_KERNEL = 3  # k_encoder
    cfg.MODEL.CARAFE.ENCODER_DILATION = 1  # of the same convolution
    cfg.MODEL.CARAFE.COMPRESSED_CHANNELS = 64  # C_m behind the channel compressor; 0 leaves the compressor out
    cfg.MODEL.CARAFE.NORMALIZER = "softmax"  # of a kernel's weights: softmax, sigmoid or sigmoid_normalized
