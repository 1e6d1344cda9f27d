"""Configuration of UPerNet; ``MODEL.SEM_SEG_HEAD.CONVS_DIM`` are its channels, 512 in the paper's."""

from densekit.d2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.UPERNET`` to ``cfg``."""
    cfg.MODEL.UPERNET = CfgNode()
    # "mmseg" convolves what was pooled, then enlarges it, and has its loss at every pixel; "csail", the authors',
    # enlarges it first, and has its loss at the stride of the scores.
    cfg.MODEL.UPERNET.CONVENTION = "mmseg"  # or "csail"
    cfg.MODEL.UPERNET.POOL_SCALES = [1, 2, 3, 6]  # sides of the pooling grids
    # Names of densekit.layers.UPSAMPLERS, as in the ablation of arXiv 1905.02188, section 5.2. "bilinear" is UPerNet's
    # own: straight to the size that is needed.
    cfg.MODEL.UPERNET.PPM_UPSAMPLER = "bilinear"  # of what was pooled; a layer does the last doubling
    cfg.MODEL.UPERNET.FPN_UPSAMPLER = "bilinear"  # of the top-down path
    cfg.MODEL.UPERNET.FUSE_UPSAMPLER = "bilinear"  # of the levels to the finest size; a layer goes step by step
