"""Rules that every path of the reassembly operator follows: the checks, the window, the output's layout.

N: images, C: channels, G: groups, H, W: low-resolution size, k: window side, s: scale; the output is (N, C, sH, sW).
"""

import torch
from torch import Tensor


def check_inputs(features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int) -> None:
    """Refuses inputs that do not belong together.

    Raises:
        ValueError: A number is not positive, the channels do not divide, or the kernels are not of the shape that
            features, ``k_up``, ``groups`` and ``scale`` ask for.
    """
    if min(k_up, groups, scale) < 1:
        raise ValueError(f"k_up={k_up}, groups={groups} and scale={scale} must be positive.")
    if features.dim() != 4 or not features.is_floating_point() or not kernels.is_floating_point():
        raise ValueError(
            f"features must be (N, C, H, W) and, like the kernels, of a floating type; they are {features.dtype} "
            f"{tuple(features.shape)} and {kernels.dtype} {tuple(kernels.shape)}."
        )
    n, c, h, w = features.shape
    if c % groups:
        raise ValueError(f"{c} channels cannot be split into groups={groups}.")
    wanted = (n, groups * k_up * k_up, scale * h, scale * w)
    if tuple(kernels.shape) != wanted:
        raise ValueError(
            f"kernels are {tuple(kernels.shape)}; features {tuple(features.shape)} with k_up={k_up}, groups={groups}, "
            f"scale={scale} need {wanted}."
        )


def window(k_up: int) -> tuple[int, int]:
    """Returns the pixels of the window before and after its centre; an even window reaches further after it."""
    return (k_up - 1) // 2, k_up // 2


def is_channels_last(x: Tensor) -> bool:
    """Tells whether a pixel's channels lie together, and not merely because there is one channel or one pixel."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def new_output(features: Tensor, scale: int) -> Tensor:
    """Memory for the result: dtype, device and memory format of the features."""
    n, c, h, w = features.shape
    layout = torch.channels_last if is_channels_last(features) else torch.contiguous_format
    return torch.empty((n, c, scale * h, scale * w), dtype=features.dtype, device=features.device, memory_format=layout)


def compute_dtype(features: Tensor, kernels: Tensor) -> torch.dtype:
    """Sums of k * k products are taken in float32 at least."""
    return torch.promote_types(torch.promote_types(features.dtype, kernels.dtype), torch.float32)
