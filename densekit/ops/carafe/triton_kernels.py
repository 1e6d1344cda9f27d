"""Reassembly on CUDA, in Triton. Importing this module needs the package ``triton``.

One program computes the results of some low-resolution pixels of one row, for some channels of one group. All s * s
output pixels of a source pixel are computed together, as they share its window, and the sums stay in registers: nothing
but the inputs and the results is ever in memory. Strides are passed, so that every memory format is read as it lies.

BC: channels, BX: pixels, BS: s * s rounded up to a power of two, BT: k * k rounded up to a power of two.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from densekit.ops.carafe.geometry import compute_dtype, is_channels_last, new_output, window

_TILE = 2048  # products that a program holds in registers


@triton.jit
def _place(blocks_x, height, groups_c, depth, BC: tl.constexpr, BX: tl.constexpr):
    """Returns the image, row, pixels, group and channels of the group that a program works on."""
    place = tl.program_id(0)
    xs = (place % blocks_x) * BX + tl.arange(0, BX)
    y = (place // blocks_x) % height
    image = (place // blocks_x // height).to(tl.int64)
    group = tl.program_id(1) // groups_c
    cs = (tl.program_id(1) % groups_c) * BC + tl.arange(0, BC)
    return image, y, xs, group, cs


@triton.jit
def _output_pixels(y, xs, stride_y, stride_x, S: tl.constexpr, BS: tl.constexpr):
    """Returns the offsets within a channel of the output pixels (BX, BS) of the source pixels at rows y, columns xs."""
    subs = tl.arange(0, BS)
    rows, columns = (tl.zeros_like(xs) + y)[:, None] * S + (subs // S)[None, :], xs[:, None] * S + (subs % S)[None, :]
    return rows * stride_y + columns * stride_x


@triton.jit
def _kernel_tile(
    kernels,
    stride_c,
    stride_y,
    stride_x,
    channel,
    y,
    xs,
    inside,
    S: tl.constexpr,
    BS: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """The weights (BX, BS) of one tap at output pixels; zero where the source pixel is not inside."""
    pointers = kernels + channel * stride_c + _output_pixels(y, xs, stride_y, stride_x, S, BS)
    return tl.load(pointers, mask=inside[:, None] & (tl.arange(0, BS) < S * S)[None, :], other=0).to(DTYPE)


@triton.jit
def _forward(
    features, kernels, output, height, width, depth, blocks_x, blocks_c,
    fn, fc, fy, fx, kn, kc, ky, kx, on, oc, oy, ox,
    K: tl.constexpr, BEFORE: tl.constexpr, S: tl.constexpr,
    BC: tl.constexpr, BX: tl.constexpr, BS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    image, y, xs, group, cs = _place(blocks_x, height, blocks_c, depth, BC, BX)
    features += image * fn + group * depth * fc
    kernels += image * kn + group * K * K * kc
    output += image * on + group * depth * oc
    total = tl.zeros((BC, BX, BS), DTYPE)
    for tap in range(K * K):
        rows, columns = tl.zeros_like(xs) + (y + tap // K - BEFORE), xs + tap % K - BEFORE
        seen = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        offsets = cs[:, None] * fc + (rows * fy + columns * fx)[None, :]
        source = tl.load(features + offsets, mask=seen[None, :] & (cs < depth)[:, None], other=0).to(DTYPE)
        weights = _kernel_tile(kernels, kc, ky, kx, tap, y, xs, xs < width, S, BS, DTYPE)
        total += source[:, :, None] * weights[None, :, :]
    kept = (cs < depth)[:, None, None] & (xs < width)[None, :, None] & (tl.arange(0, BS) < S * S)[None, None, :]
    pointers = output + cs[:, None, None] * oc + _output_pixels(y, xs, oy, ox, S, BS)[None, :, :]
    tl.store(pointers, total.to(output.dtype.element_ty), mask=kept)


@triton.jit
def _grad_features(
    grad, kernels, result, height, width, depth, blocks_x, blocks_c,
    gn, gc, gy, gx, kn, kc, ky, kx, rn, rc, ry, rx,
    K: tl.constexpr, BEFORE: tl.constexpr, S: tl.constexpr,
    BC: tl.constexpr, BX: tl.constexpr, BS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    # A source pixel gathers from the output pixels of all source pixels in whose window it is: no atomics.
    image, y, xs, group, cs = _place(blocks_x, height, blocks_c, depth, BC, BX)
    grad += image * gn + group * depth * gc
    kernels += image * kn + group * K * K * kc
    result += image * rn + group * depth * rc
    total = tl.zeros((BC, BX), DTYPE)
    for tap in range(K * K):
        rows, columns = tl.zeros_like(xs) + (y - tap // K + BEFORE), xs - tap % K + BEFORE
        seen = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        weights = _kernel_tile(kernels, kc, ky, kx, tap, rows, columns, seen, S, BS, DTYPE)
        offsets = cs[:, None, None] * gc + _output_pixels(rows, columns, gy, gx, S, BS)[None, :, :]
        kept = (cs < depth)[:, None, None] & seen[None, :, None] & (tl.arange(0, BS) < S * S)[None, None, :]
        pixels = tl.load(grad + offsets, mask=kept, other=0).to(DTYPE)
        total += tl.sum(pixels * weights[None, :, :], axis=2)
    offsets = cs[:, None] * rc + y * ry + xs[None, :] * rx
    kept = (cs < depth)[:, None] & (xs < width)[None, :]
    tl.store(result + offsets, total.to(result.dtype.element_ty), mask=kept)


@triton.jit
def _grad_kernels(
    grad, features, result, height, width, depth, blocks_x, blocks_c,
    gn, gc, gy, gx, fn, fc, fy, fx, rn, rc, ry, rx,
    K: tl.constexpr, BEFORE: tl.constexpr, S: tl.constexpr,
    BT: tl.constexpr, BX: tl.constexpr, BS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    # All taps of some pixels at once, channel after channel: both inputs are read once and nothing is reduced across
    # threads.
    image, y, xs, group, taps = _place(blocks_x, height, blocks_c, K * K, BT, BX)
    grad += image * gn + group * depth * gc
    features += image * fn + group * depth * fc
    result += image * rn + group * K * K * rc
    rows, columns = y + taps // K - BEFORE, xs[None, :] + (taps % K)[:, None] - BEFORE
    seen = ((rows >= 0) & (rows < height) & (taps < K * K))[:, None] & (columns >= 0) & (columns < width)
    sources = rows[:, None] * fy + columns * fx
    pixels = _output_pixels(y, xs, gy, gx, S, BS)
    within = (xs < width)[:, None] & (tl.arange(0, BS) < S * S)[None, :]
    total = tl.zeros((BT, BX, BS), DTYPE)
    for c in range(depth):
        source = tl.load(features + c * fc + sources, mask=seen, other=0).to(DTYPE)
        values = tl.load(grad + c * gc + pixels, mask=within, other=0).to(DTYPE)
        total += source[:, :, None] * values[None, :, :]
    kept = (taps < K * K)[:, None, None] & within[None, :, :]
    pointers = result + taps[:, None, None] * rc + _output_pixels(y, xs, ry, rx, S, BS)[None, :, :]
    tl.store(pointers, total.to(result.dtype.element_ty), mask=kept)


def forward(features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int) -> Tensor:
    """Returns (N, C, sH, sW), of the features' dtype and memory format."""
    output = new_output(features, scale)
    _launch(_forward, (features, kernels, output), features, kernels, k_up, groups, scale, is_channels_last(features))
    return output


def backward(
    grad: Tensor, features: Tensor, kernels: Tensor, k_up: int, groups: int, scale: int
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of features and kernels for ``grad`` (N, C, sH, sW)."""
    grad_features, grad_kernels = torch.empty_like(features), torch.empty_like(kernels)
    pixelwise = is_channels_last(grad)
    call: tuple[Any, ...] = (features, kernels, k_up, groups, scale, pixelwise)
    _launch(_grad_features, (grad, kernels, grad_features), *call)
    _launch(_grad_kernels, (grad, features, grad_kernels), *call, taps=triton.next_power_of_2(k_up * k_up))
    return grad_features, grad_kernels


def _launch(
    kernel: Any,
    tensors: tuple[Tensor, Tensor, Tensor],
    features: Tensor,
    kernels: Tensor,
    k_up: int,
    groups: int,
    scale: int,
    pixelwise: bool,
    *,
    taps: int = 0,
) -> None:
    """Runs a kernel over all pixels, and over all channels unless it takes ``taps`` instead."""
    if features.numel() == 0:
        return
    n, c, height, width = features.shape
    if c * height * width * scale**2 >= 2**31:
        raise ValueError(
            f"One image of {c} x {height} x {width} at scale {scale} has too many values for 32-bit offsets."
        )
    depth, subs = c // groups, triton.next_power_of_2(scale * scale)
    # Neighbouring threads take what lies together: channels of a pixel, or else pixels of a channel.
    wide = triton.next_power_of_2(min(depth, 64 if pixelwise else max(1, _TILE // (32 * subs))))
    first = taps or wide
    pixels = max(1, min(triton.next_power_of_2(width), _TILE // (first * subs)))
    blocks_x, blocks_c = triton.cdiv(width, pixels), 1 if taps else triton.cdiv(depth, wide)
    strides = [stride for tensor in tensors for stride in tensor.stride()]
    dtype = tl.float64 if compute_dtype(features, kernels) == torch.float64 else tl.float32
    with torch.cuda.device_of(features):
        kernel[(n * height * blocks_x, groups * blocks_c)](
            *tensors, height, width, depth, blocks_x, blocks_c, *strides,
            k_up, window(k_up)[0], scale, first, pixels, subs, dtype,
        )  # fmt: skip
