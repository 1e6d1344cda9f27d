"""A 3x3 convolution whose backward pass costs what the gradient holds.

The RPN computes its hidden map everywhere, but its loss reads a few hundred sampled anchors: at all other pixels the
gradient is exactly zero. A dense backward pass over the pyramid would be a seventh of a training step of Mask R-CNN on
the CPU; the one here leaves those pixels out. The result is the same sum without its zeros.

Shape shorthand: N images, C channels, H, W pixels, P pixels where the gradient is not zero.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight

from densekit.runtime.layers import Conv2d

# Above this share of pixels the dense pass is faster.
_MAX_SHARE = 0.1


class SparseGradConv2d(Conv2d):
    """``Conv2d`` of kernel 3, stride 1 and padding 1, fast to train on the CPU where few outputs matter.

    On an accelerator, where looking for zeros would stall the queue, it is the plain layer.
    """

    def __init__(self, in_channels: int, out_channels: int, **options: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, **options)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        learns = self.training and torch.is_grad_enabled() and x.device.type == "cpu"
        if not learns or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return super()._conv_forward(x, weight, bias)
        return _SparseGradConv.apply(x, weight, bias)


class _SparseGradConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        pixels = (grad != 0).any(dim=1)  # (N, H, W)
        if pixels.sum() > _MAX_SHARE * pixels.numel():
            grad_x = conv2d_input(x.shape, weight, grad, padding=1) if needs_x else None
            grad_weight = conv2d_weight(x, weight.shape, grad, padding=1) if needs_weight else None
        else:
            grad_x, grad_weight = _sparse_backward(x, weight, grad, pixels.nonzero().unbind(dim=1))
        return grad_x, grad_weight, grad.sum(dim=(0, 2, 3)) if needs_bias else None


def _sparse_backward(x: Tensor, weight: Tensor, grad: Tensor, where: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Gradients of input and kernel from the pixels ``where`` = (image, row, column), (P,) each."""
    image, row, column = where
    height, width = x.shape[2:]
    from_pixels = grad[image, :, row, column]  # (P, C_out)
    grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
    for i in range(3):
        for j in range(3):
            y, z = row + i - 1, column + j - 1
            inside = (y >= 0) & (y < height) & (z >= 0) & (z < width)  # the padding is zero and learns nothing
            source = (image[inside], slice(None), y[inside], z[inside])
            reached = from_pixels[inside]
            grad_weight[:, :, i, j] = reached.T @ x[source]
            # No pixel occurs twice for one tap, so reading, adding and writing back is safe.
            grad_x[source] += reached @ weight[:, :, i, j]
    return grad_x, grad_weight
