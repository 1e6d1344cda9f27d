"""Configuration of SPNet: where strips are pooled, and the grids of mixed pooling."""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.SPNET`` to ``cfg``."""
    node = cfg.MODEL.SPNET = CfgNode()
    # Blocks of the backbone SPNetResNet with a strip pooling module, in res2 to res5: "none", "last" or "all" of a
    # stage (section 3.3 and the ablation of table 2).
    node.STRIP_POOLING = ["last", "last", "last", "all"]
    node.MIXED_POOLING = 2  # mixed pooling modules one after the other, of the head SPNetHead (table 1)
    node.POOL_GRIDS = [20, 12]  # sides of their grids


def shrink(cfg: CfgNode) -> None:
    """Makes the grids small enough for the maps of a test, and the head narrow, with groups for GroupNorm."""
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 64
    cfg.MODEL.SPNET.POOL_GRIDS = [5, 3]
