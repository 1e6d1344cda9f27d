"""Convolutions that take in the norm behind them, for networks that only predict. Plain torch.

A module that calls a convolution and a norm one after the other, with nothing between them, names the two in ``folds``,
pairs of its attributes; one that becomes simpler in another way has a method ``fuse``.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

__all__ = ["folded", "plain_convolution"]


def folded(weight: Tensor, bias: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    """A convolution and the norm behind it as one, in float64.

    Args:
        weight: (C', C, k, k).
        bias: (C',) or None.
        norm: a batch norm of C' channels, learnt, frozen or without weights, as it is in evaluation mode.

    Returns:
        Weight (C', C, k, k) and bias (C',).
    """
    if norm.running_var is None or norm.running_mean is None:
        raise ValueError("A BatchNorm without running statistics cannot be folded into a convolution.")
    given = (weight, bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    exact: list[Any] = [None if one is None else one.double() for one in given]
    kernel, offset, mean, variance, scale, shift = exact
    return fuse_conv_bn_weights(kernel, offset, mean, variance, norm.eps, scale, shift)


def plain_convolution(weight: Tensor, bias: Tensor, like: nn.Conv2d) -> nn.Conv2d:
    """A convolution with these values (C', C / groups, h, w) and (C',), and the rest of another; it does not learn."""
    conv = nn.Conv2d(
        like.in_channels,
        weight.shape[0],
        weight.shape[2:],  # type: ignore[arg-type]
        stride=like.stride,  # type: ignore[arg-type]
        padding=like.padding,  # type: ignore[arg-type]
        dilation=like.dilation,  # type: ignore[arg-type]
        groups=like.groups,
        padding_mode=like.padding_mode,
        device=like.weight.device,
        dtype=like.weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)  # type: ignore[union-attr]
    return conv.requires_grad_(False).train(like.training)
