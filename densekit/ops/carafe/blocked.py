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
from densekit.ops.carafe.workspace import Workspace


def forward(features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int) -> Tensor:
    """Returns (N, C, sH, sW), of the features' dtype and memory format."""
    output = new_output(features, scale)
    if output.numel() == 0:
        return output
    blocks = Blocks(features, kernels, k_up, groups, scale)
    workspace = Workspace(blocks, pixelwise=is_channels_last(output))
    padded = blocks.new_padded()
    blocks.inner(padded).copy_(features)
    windows, kernel_spans, output_spans = (
        blocks.windows(padded),
        blocks.kernel_spans(kernels),
        blocks.output_spans(output),
    )
    for chunk in blocks.chunks():
        views = workspace.views(chunk)
        views.windows.copy_(windows[chunk])
        for image, band in zip(kernel_spans, views.band_spans):
            band.copy_(image[chunk])
        for source, band, pixels in zip(views.sources, views.bands, views.pixels):
            _multiply(band, source, out=pixels)
        for image, pixels in zip(output_spans, views.pixel_spans):
            image[chunk] = pixels
    return output


def backward(
    grad: Tensor, features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of features and kernels for ``grad`` (N, C, sH, sW)."""
    grad_features, grad_kernels = torch.empty_like(features), torch.empty_like(kernels)
    if grad.numel() == 0:
        return grad_features.zero_(), grad_kernels.zero_()
    blocks = Blocks(features, kernels, k_up, groups, scale)
    workspace = Workspace(blocks, pixelwise=is_channels_last(grad), gradients=True)
    padded, grad_padded = blocks.new_padded(), blocks.new_padded()
    blocks.inner(padded).copy_(features)
    windows, overlaps = blocks.windows(padded), blocks.overlaps(grad_padded)
    kernel_spans, grad_kernel_spans = blocks.kernel_spans(kernels), blocks.kernel_spans(grad_kernels)
    output_spans = blocks.output_spans(grad)
    for chunk in blocks.chunks():
        views, grads = workspace.views(chunk), workspace.grad_views(chunk)
        views.windows.copy_(windows[chunk])
        for image, band in zip(kernel_spans, views.band_spans):
            band.copy_(image[chunk])
        for image, pixels in zip(output_spans, views.pixel_spans):
            pixels.copy_(image[chunk])
        for band, pixels, grad_source in zip(views.bands, views.pixels, grads.sources):
            torch.bmm(band.transpose(1, 2), pixels, out=grad_source)
        images, rows = chunk
        for lines, parts in zip(overlaps, grads.overlaps):
            for dy, part in enumerate(parts):
                lines[images, rows.start + dy : rows.stop + dy] += part
        for source, pixels, grad_band in zip(views.sources, views.pixels, grads.bands):
            torch.bmm(pixels, source.transpose(1, 2), out=grad_band)
        for image, band in zip(grad_kernel_spans, grads.band_spans):
            image[chunk] = band
    return grad_features.copy_(blocks.inner(grad_padded)), grad_kernels


def _multiply(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Batched ``left @ right``, with no copy where ``out`` is a transposed view."""
    if out.is_contiguous():
        torch.bmm(left, right, out=out)
    else:
        torch.bmm(right.transpose(1, 2), left.transpose(1, 2), out=out.transpose(1, 2))
