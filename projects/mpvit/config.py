"""Configuration of MPViT: the lists of its table 1, an entry for each stage; the defaults are the size T."""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.MPVIT`` to ``cfg``."""
    node = cfg.MODEL.MPVIT = CfgNode()
    node.NUM_PATH = [2, 3, 3, 3]  # parallel paths
    node.NUM_LAYERS = [1, 2, 4, 1]  # transformer layers of each path
    node.EMBED_DIMS = [64, 96, 176, 216]  # channels inside a stage; its output has those of the next one
    node.MLP_RATIOS = [2.0, 2.0, 2.0, 2.0]  # hidden width of the MLPs, in channels
    node.NUM_HEADS = [8, 8, 8, 8]  # heads of the attention
    node.DROP_PATH = 0.0  # probability of the last layer; the others' rise linearly from 0
    node.NORM = "BN"  # behind the convolutions; the LayerNorms stay
    node.OUT_FEATURES = ["stage2", "stage3", "stage4", "stage5"]  # of strides 4, 8, 16 and 32


def shrink(cfg: CfgNode) -> None:
    """Makes the backbone small enough to take a step in a test."""
    cfg.MODEL.MPVIT.NUM_LAYERS = [1, 1, 1, 1]
    cfg.MODEL.MPVIT.EMBED_DIMS = [8, 16, 16, 16]
    cfg.MODEL.MPVIT.MLP_RATIOS = [1.0, 1.0, 1.0, 1.0]
