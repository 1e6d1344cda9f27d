"""Computations that half precision is too coarse for."""

import torch
from torch import Tensor


def at_least_single(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
