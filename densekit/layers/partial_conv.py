"""Partial convolution.

"Image Inpainting for Irregular Holes Using Partial Convolutions" (arXiv 1804.07723), section 3.1.

Masks are validity masks: 1 where a pixel is valid, 0 where it is a hole. Padding counts as hole.

N: images, C: input channels, D: output channels, G: groups, H, W: input size, h, w: output size, k: side of the window.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.ops.precision import at_least_single


class PartialConv2d(nn.Conv2d):
    """A convolution that sees valid pixels only and says which of its outputs are valid.

    With W the window's size and s the sum of the masks in a window (equations 1 and 2)::

        y = (weight * (x mask)) W / s + bias    and new mask 1    where s > 0
        y = 0                                   and new mask 0    elsewhere

    Masks may have fractions; a window with 0 < s < 1 then counts for s of a valid one, and its new mask is s, as in the
    authors' release. Nothing is remembered from one call to the next.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as of ``nn.Conv2d``.
        rescale: W in the formula above, so that the output has the size it would have without holes; without it, W is
            1, as in a public re-implementation whose weights are trained that way. Weights of the one do not fit the
            other.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, rescale: bool = True, **options: Any):
        super().__init__(in_channels, out_channels, kernel_size, **options)
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            raise ValueError(
                f"PartialConv2d: padding={self.padding!r} with padding_mode={self.padding_mode!r}; padding is a number "
                "of zeros, which are holes."
            )
        self.rescale = rescale

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Convolves what is valid.

        Args:
            x: (N, C, H, W); what stands in holes does not matter unless it is infinite or NaN.
            mask: (N or 1, C, H, W), or (N or 1, 1, H, W) for all channels; any type, in 0..1. None: all is valid but
                the padding.

        Returns:
            The output (N, D, h, w), and its mask (N or 1, D, h, w), or (N or 1, 1, h, w) if ``mask`` had one channel,
            in the output's type. Where the mask of several channels has one value for all of them, it is a view of it.

        Raises:
            ValueError: The mask does not fit the input.
        """
        valid = x.new_ones((1, 1, *x.shape[2:])) if mask is None else mask
        _check_mask(x, valid)
        seen = x if mask is None else x * valid.to(x.dtype)
        total, size = self._sums(valid)
        # The authors' W / (s + 1e-8) min(s, 1), without a constant that half precision rounds to 0: of a window with
        # s = 0 nothing is seen, so that it needs no factor of 0.
        scale = (size if self.rescale else 1.0) / total.clamp(min=1)
        raw = F.conv2d(seen, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        y = (raw * scale).to(raw.dtype)
        new_mask = total.clamp(max=1).to(y.dtype)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)[:, None, None] * new_mask
        return y, new_mask

    def _sums(self, valid: Tensor) -> tuple[Tensor, float]:
        """The sums of the masks in each window, (N, D or 1, h, w) in float32 at least, and the window's size."""
        valid = at_least_single(valid if valid.is_floating_point() else valid.to(self.weight.dtype))
        window = float(self.kernel_size[0] * self.kernel_size[1])
        is_single = valid.shape[1] == 1
        groups = 1 if is_single else self.groups
        if not is_single:
            window *= self.in_channels / groups
            # Every channel of a group enters all of the group's outputs, so the channels are summed before the windows.
            valid = valid.unflatten(1, (groups, -1)).sum(dim=2)
        ones = valid.new_ones((groups, 1, *self.kernel_size))
        with torch.autocast(valid.device.type, enabled=False):
            total = F.conv2d(valid, ones, None, self.stride, self.padding, self.dilation, groups)
        if is_single:
            return total, window
        if groups == 1:
            return total.expand(-1, self.out_channels, -1, -1), window
        return total.repeat_interleave(self.out_channels // groups, dim=1), window


def _check_mask(x: Tensor, mask: Tensor) -> None:
    fits = mask.dim() == 4 and mask.shape[2:] == x.shape[2:]
    if not fits or mask.shape[0] not in (1, x.shape[0]) or mask.shape[1] not in (1, x.shape[1]):
        raise ValueError(
            f"A mask of shape {tuple(mask.shape)} does not fit features of shape {tuple(x.shape)}: it needs their "
            "height and width, one image or as many, and one channel or as many."
        )
