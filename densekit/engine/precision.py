"""Mixed precision: the one that a configuration asks for, and whether its device computes in it."""

import torch

from densekit.d2.config import CfgNode
from densekit.ops.processor import computes_in_bfloat16

__all__ = ["computes_in_bfloat16", "precision", "why_not_mixed"]


def precision(cfg: CfgNode) -> torch.dtype | None:
    """The dtype of mixed precision; None without it."""
    name = cfg.SOLVER.AMP.DTYPE
    if name not in ("float16", "bfloat16"):
        raise ValueError(f"SOLVER.AMP.DTYPE is {name!r}; it can be 'float16' or 'bfloat16'.")
    return getattr(torch, name) if cfg.SOLVER.AMP.ENABLED else None


def why_not_mixed(cfg: CfgNode) -> str:
    """The reason for which a training on the configured device is better off without mixed precision; empty if none."""
    if cfg.MODEL.DEVICE.startswith("cuda"):
        return ""
    if precision(cfg) is torch.float16:
        return "processors do not compute in float16; SOLVER.AMP.DTYPE bfloat16 is theirs, where they have it"
    if not computes_in_bfloat16():
        return (
            "this processor has no instructions that compute in bfloat16 (AVX-512 BF16 or AMX, on ARM BF16), and would "
            "be slower with it than in float32"
        )
    return ""
