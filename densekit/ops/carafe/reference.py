"""Reassembly by its definition, one tap of the window at a time, in plain operators.

Slow, and autograd keeps k * k products of the output's size; what it is for is to be read, to check the other paths
against, and to be exported, as ONNX knows every operator in it.
"""

import torch.nn.functional as F
from torch import Tensor

from densekit.ops.carafe.geometry import compute_dtype, window


def reassemble(features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int) -> Tensor:
    """Sums, for output pixel (i, j), the window around (i // scale, j // scale) weighted by the kernel at (i, j)."""
    n, c, h, w = features.shape
    before, after = window(k_up)
    dtype = compute_dtype(features, kernels)
    padded = F.pad(features.to(dtype), (before, after, before, after))
    weights = kernels.to(dtype).reshape(n, groups, k_up * k_up, scale * h, scale * w)
    total = weights.new_zeros((n, groups, c // groups, scale * h, scale * w))
    for tap in range(k_up * k_up):
        dy, dx = divmod(tap, k_up)
        neighbour = padded[:, :, dy : dy + h, dx : dx + w]  # (N, C, H, W)
        seen = neighbour.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)  # (N, C, sH, sW)
        total = total + seen.reshape(total.shape) * weights[:, :, tap, None]
    return total.reshape(n, c, scale * h, scale * w).to(features.dtype)
