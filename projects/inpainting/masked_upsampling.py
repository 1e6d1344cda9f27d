"""Upsampling of features and of their validity mask together, for decoders of partial convolutions.

"CARAFE: Content-Aware ReAssembly of FEatures" (arXiv 1905.02188), section 4.3, updates the mask by the same reassembly
kernels and does not say how. The rule here, with f the features, m their mask in {0, 1}, and R_w the reassembly with
the kernels w that are predicted from f m alone::

    s = R_w(m) / R_w(1)                    the share of a kernel's weight, inside the picture, that is on valid pixels
    new mask  = 1 where s >= threshold, else 0
    features  = R_w(f m) / s where the new mask is 1, else 0

Dividing by s is to reassembly what the ratio of window and mask is to partial convolution. R_w(1) is what of a kernel
lies inside the picture, which CARAFE does not renormalise; so with a mask of ones this is CARAFE to the last bit.

The threshold is one half by default: most of the weight must be on valid pixels. Every weight of a softmax is positive,
so with a threshold near 0 each step would call a ring of two coarse pixels valid where next to no weight is on valid
ones, and 1 / s would blow up what noise is there. With one half the outline of a hole stays where nearest
interpolation leaves it, 1 / s is at most 2, and the holes close by the partial convolutions, as they were meant to.

Masks are validity masks, 1 where valid. N: images, C: channels, H, W: input size, s: scale, k: side of the window.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.layers import CARAFE, Upsampler
from densekit.ops.carafe import carafe
from densekit.ops.precision import at_least_single


class MaskedUpsampler(nn.Module):
    """An upsampling layer that carries a mask along.

    CARAFE follows the rule above. For the others the mask is enlarged by nearest interpolation and the features by the
    layer, as published for "nearest" and "bilinear"; of these only "nearest" keeps holes apart from valid pixels.

    Args:
        layer: the upsampling layer.
        threshold: of CARAFE's new mask, above 0 and at most 1.

    Raises:
        ValueError: The threshold is out of range.
    """

    def __init__(self, layer: Upsampler, *, threshold: float = 0.5) -> None:
        super().__init__()
        if not 0 < threshold <= 1:
            raise ValueError(f"The threshold of an upsampled mask is {threshold}; it must be above 0 and at most 1.")
        self.layer = layer
        self.threshold = threshold

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Enlarges features (N, C, H, W) and their mask (N or 1, 1, H, W) by the layer's scale.

        Returns:
            (N, C, sH, sW) and (N, 1, sH, sW), or (1, 1, sH, sW) where the mask is enlarged by itself.
        """
        if isinstance(self.layer, CARAFE):
            return self._reassemble(self.layer, x, mask)
        return self.layer(x), F.interpolate(mask, scale_factor=float(self.layer.scale_factor), mode="nearest")

    def _reassemble(self, layer: CARAFE, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        seen = x * mask
        kernels = layer.kernels(seen)
        share = _share(layer, kernels, mask.expand(len(x), -1, -1, -1))
        # Groups of channels have kernels of their own: what is valid is so in all of them.
        valid = (share.detach() >= self.threshold).all(dim=1, keepdim=True)
        scale = valid / _safe(share)
        y = carafe(seen, kernels, layer.up_kernel, layer.up_group, layer.scale_factor)
        runs = at_least_single(y).unflatten(1, (layer.up_group, -1))  # (N, G, C / G, sH, sW)
        return (runs * scale[:, :, None]).flatten(1, 2).to(y.dtype), valid.to(mask.dtype)


def _share(layer: CARAFE, kernels: Tensor, mask: Tensor) -> Tensor:
    """The share s for each group of kernels: (N, G, sH, sW), in float32 at least; exactly 1 where all is valid."""
    groups = layer.up_group
    kernels, mask = at_least_single(kernels), at_least_single(mask)
    valid = carafe(mask.expand(-1, groups, -1, -1).contiguous(), kernels, layer.up_kernel, groups, layer.scale_factor)
    inside = torch.ones_like(mask).expand(-1, groups, -1, -1).contiguous()
    return valid / _safe(carafe(inside, kernels, layer.up_kernel, groups, layer.scale_factor))


def _safe(x: Tensor) -> Tensor:
    """Keeps a divisor away from 0, where the sigmoids of a kernel are all next to it."""
    return x.clamp(min=1e-6)
