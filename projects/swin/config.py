"""Configuration of Swin: ``MODEL.SWIN``, with the keys of Mask2Former's port to Detectron2 where it has them."""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.SWIN`` to ``cfg``; the defaults are Swin-T."""
    cfg.MODEL.SWIN = CfgNode()
    cfg.MODEL.SWIN.PRETRAIN_IMG_SIZE = 224  # side of the images that absolute positions belong to, pixels
    cfg.MODEL.SWIN.PATCH_SIZE = 4  # side of a patch, pixels; the stride of the first map
    cfg.MODEL.SWIN.EMBED_DIM = 96  # C, channels of the first stage; 128 for B, 192 for L
    cfg.MODEL.SWIN.DEPTHS = [2, 2, 6, 2]  # blocks of each stage; 18 in the third for S, B and L
    cfg.MODEL.SWIN.NUM_HEADS = [3, 6, 12, 24]  # of each stage; channels of a head are 32 in all published forms
    cfg.MODEL.SWIN.WINDOW_SIZE = 7  # M, side of a window in tokens; 12 for weights trained at 384 pixels
    cfg.MODEL.SWIN.MLP_RATIO = 4.0  # alpha, width of the MLPs over the channels
    cfg.MODEL.SWIN.QKV_BIAS = True  # queries, keys and values have a bias
    cfg.MODEL.SWIN.DROP_PATH_RATE = 0.2  # stochastic depth of the last block; it grows from 0 in equal steps
    cfg.MODEL.SWIN.APE = False  # absolute positions beside the relative ones
    cfg.MODEL.SWIN.PATCH_NORM = True  # a norm behind the patch embedding
    cfg.MODEL.SWIN.OUT_FEATURES = ["res2", "res3", "res4", "res5"]  # maps of stride 4 to 32
    cfg.MODEL.SWIN.USE_CHECKPOINT = False  # compute activations again in the backward pass: less memory, slower

    # What the port does not have.
    # -1: all learns. 0: the patch embedding does not; 1: nor do absolute positions; k: nor do the first k - 1 stages.
    cfg.MODEL.SWIN.FROZEN_STAGES = -1  # see above
    # Side of the images of a classifier, pixels: maps that are smaller than a window have one of their own size, as the
    # authors' classifiers do. 0: images of any size.
    cfg.MODEL.SWIN.IMAGE_SIZE = 0  # see above
    cfg.MODEL.SWIN.LAYER_DECAY = 1.0  # factor on the learning rate from each block to the one before it


def shrink(cfg: CfgNode) -> None:
    """Makes a merged config small enough for a training step within a test."""
    cfg.MODEL.SWIN.EMBED_DIM = 8
    cfg.MODEL.SWIN.DEPTHS = [min(depth, 2) for depth in cfg.MODEL.SWIN.DEPTHS]
    cfg.MODEL.SWIN.NUM_HEADS = [1, 2, 2, 4][: len(cfg.MODEL.SWIN.DEPTHS)]
    cfg.MODEL.SWIN.WINDOW_SIZE = 3
