"""One table of tolerances, by what the arithmetic can promise: ``torch.testing.assert_close(a, b, **close(dtype))``."""

import torch

_BY_DTYPE = {
    torch.float64: {"atol": 1e-10, "rtol": 1e-10},
    torch.float32: {"atol": 1e-5, "rtol": 1e-5},
    torch.float16: {"atol": 4e-3, "rtol": 4e-3},
    torch.bfloat16: {"atol": 2e-2, "rtol": 2e-2},
}

# What every system promises against the recorded numbers of its authors' code.
PARITY = {"atol": 1e-4, "rtol": 1e-4}


def close(dtype: torch.dtype) -> dict[str, float]:
    return dict(_BY_DTYPE[dtype])
