"""Shared parts of generators: the bounds of their results.

A generator is called with normalised images (N, 3, H, W) and holes (N, 1, H, W), 1 in the hole, and returns whole
pictures (N, 3, H, W) in the same normalisation. Its ``size_divisibility`` divides the sides that it takes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# The last step of a generator, which must suit MODEL.PIXEL_MEAN and MODEL.PIXEL_STD.
OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,  # for values in -1..1
    "sigmoid": torch.sigmoid,  # for values in 0..1
    "none": lambda x: x,
}
