"""Instructions that the processor has."""

import platform

import torch

__all__ = ["computes_in_bfloat16"]


def computes_in_bfloat16() -> bool:
    """Tells whether the processor multiplies in bfloat16 itself, and torch's kernels for convolutions use that."""
    # On x86 torch's kernels also accept processors that have to convert each number, which is slower than float32.
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    asked = [getattr(torch.cpu, name)() for name in names if hasattr(torch.cpu, name)]
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and (any(asked) or not is_x86)
