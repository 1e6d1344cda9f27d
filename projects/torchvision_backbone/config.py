"""Configuration of torchvision's backbones."""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.TORCHVISION`` to ``cfg``."""
    node = cfg.MODEL.TORCHVISION = CfgNode()
    node.NAME = "resnet18"  # as torchvision.models.list_models() has it
    # Download torchvision's default weights of this name when the model is built. MODEL.WEIGHTS, which is loaded
    # afterwards, takes files of torchvision's, and downloads nothing.
    node.PRETRAINED = False
    # Turn batch norms into constants, as detectors with few images per batch do with pretrained backbones.
    node.FREEZE_NORMS = False


def shrink(cfg: CfgNode) -> None:
    """Takes a network that is small enough to take a step in a test."""
    cfg.MODEL.TORCHVISION.NAME = "resnet18"
