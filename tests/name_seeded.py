"""Weights of full-size models that are recorded by name and shape only: values seeded by the name."""

import zlib
from collections.abc import Sequence

import numpy as np
import torch


def name_seeded(name: str, shape: Sequence[int]) -> torch.Tensor:
    """The value that every implementation gives an entry of this name.

    Standard normal numbers of a generator seeded with the name's CRC-32; matrices and kernels are divided by the root
    of their fan-in, scales are near 1, shifts and means small, variances at least 1.
    """
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    x = torch.from_numpy(np.ascontiguousarray(np.asarray(drawn, dtype=np.float32)))
    if name.endswith("running_var"):
        return 1 + 0.1 * x.abs()
    if name.endswith("running_mean"):
        return 0.1 * x
    if len(shape) >= 2:
        return x * float(1 / np.prod(shape[1:]) ** 0.5)
    if len(shape) == 1 and name.endswith(".weight"):
        return 1 + 0.1 * x
    return 0.05 * x
