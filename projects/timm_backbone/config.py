"""Configuration of timm's backbones."""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.TIMM`` to ``cfg``."""
    node = cfg.MODEL.TIMM = CfgNode()
    node.NAME = "resnet18"  # as timm.list_models() has it; with its tag, such as resnet18.a1_in1k, to be PRETRAINED
    # Download timm's weights of this name when the model is built. MODEL.WEIGHTS, which is loaded afterwards, takes
    # files of timm's and package://<package>/<file>, and downloads nothing.
    node.PRETRAINED = False
    node.DROP_PATH = 0.0  # probability of stochastic depth (arXiv 1603.09382), for networks that have it
    # Turn batch norms into constants, as detectors with few images per batch do with pretrained backbones.
    node.FREEZE_NORMS = False


def shrink(cfg: CfgNode) -> None:
    """Takes timm's smallest convolutional network, which is small enough to take a step in a test."""
    cfg.MODEL.TIMM.NAME = "test_efficientnet"
