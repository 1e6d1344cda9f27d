"""Configuration of the template: one node of its own, one comment for every key."""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.TEMPLATE`` to ``cfg``."""
    cfg.MODEL.TEMPLATE = CfgNode()
    cfg.MODEL.TEMPLATE.HIDDEN_DIM = 256  # width of both linear layers of the pooled head


def shrink(cfg: CfgNode) -> None:
    """Narrows the head, so that a step takes well under a second."""
    cfg.MODEL.TEMPLATE.HIDDEN_DIM = 16
