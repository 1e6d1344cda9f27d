"""Reassembly as small matrix products: the path for CPUs, and for any device without Triton.

T neighbouring low-resolution pixels share most of their windows, which together are k rows of J = T + k - 1 columns.
With a matrix row for each of these K = J * k source pixels, the block's M = s * T * s output pixels are one product
with their kernels, written as a matrix that is zero outside of a band::

    kernels (M, K)  @  source pixels (K, D)  =  output pixels (M, D)

All blocks of some image rows go through one batched product, few enough rows for the working memory to stay in the
cache. The backward pass is the same with the matrices transposed; it reads features and kernels once more, so that the
forward pass keeps nothing.

The zeros beside the band meet pixels up to T - 1 columns outside of a window: infinities and NaN spread that far.

N: images, C: channels, G: groups, D: channels of a group, H, W: low-resolution size, k: window side, s: scale, T:
pixels in a block, B: blocks in a row, n: images in a chunk, R: rows of each of them, b = n * R * B.
"""

import torch
from torch import Tensor

from densekit.ops.carafe.blocks import Blocks
from densekit.ops.carafe.geometry import is_channels_last, new_output


def forward(features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int) -> Tensor:
    """Returns (N, C, sH, sW), of the features' dtype and memory format."""
    output = new_output(features, scale)
    if output.numel() == 0:
        return output
    blocks = Blocks(features, kernels, k_up, groups, scale, pixelwise=is_channels_last(output))
    padded = blocks.new_padded()
    blocks.inner(padded).copy_(features)
    for chunk in blocks.chunks():
        sources, bands, pixels = blocks.sources(padded, chunk), blocks.bands(kernels, chunk), blocks.pixels(chunk)
        for group in range(groups):
            _product(bands[group], sources[group], out=pixels[group])
        for image, block in blocks.output_pairs(output, chunk):
            image.copy_(block)
    return output


def backward(
    grad: Tensor, features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of features and kernels for ``grad`` (N, C, sH, sW)."""
    if grad.numel() == 0:
        return torch.zeros_like(features), torch.zeros_like(kernels)
    blocks = Blocks(features, kernels, k_up, groups, scale, pixelwise=is_channels_last(grad))
    padded, grad_padded = blocks.new_padded(), blocks.new_padded()
    blocks.inner(padded).copy_(features)
    grad_features, grad_kernels = torch.empty_like(features), torch.empty_like(kernels)
    for chunk in blocks.chunks():
        sources, bands, pixels = blocks.sources(padded, chunk), blocks.bands(kernels, chunk), blocks.pixels(chunk)
        for image, block in blocks.output_pairs(grad, chunk):
            block.copy_(image)
        grad_sources = torch.stack([torch.bmm(bands[g].transpose(1, 2), pixels[g]) for g in range(groups)])
        blocks.scatter(grad_sources, grad_padded, chunk)
        grad_bands = torch.stack([torch.bmm(pixels[g], sources[g].transpose(1, 2)) for g in range(groups)])
        blocks.store(grad_bands, grad_kernels, chunk)
    return grad_features.copy_(blocks.inner(grad_padded)), grad_kernels


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Batched ``left @ right``, with no copy where ``out`` is a transposed view."""
    if out.is_contiguous():
        torch.bmm(left, right, out=out)
    else:
        torch.bmm(right.transpose(1, 2), left.transpose(1, 2), out=out.transpose(1, 2))
