"""Convolution with predicted kernels, the module of CaC-Net (arXiv 2004.08222).

N: images, C: channels, H, W: sides of a map, L = H W: its positions, s: side of a kernel.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.layers.conv_norm import Norm


class PredictedKernels(nn.Module):
    """Depthwise kernels that a matrix product makes of a whole map.

    Every one of the s s taps of a channel's kernel is a weighted sum of that channel's keys over all positions; the
    weights are a query map for each tap. So the kernels hold the context of the image at the price of two 1x1
    convolutions.

    Args:
        channels: C.
        kernel: s, odd.
        norm: makes the norm of the kernels.
        softmax: turn each query map into weights that sum to 1.
    """

    def __init__(self, channels: int, kernel: int, *, norm: Norm, softmax: bool) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"MODEL.CACNET.KERNEL is {kernel}; a kernel with a centre has an odd side.")
        self.kernel, self.softmax = kernel, softmax
        self.key = nn.Conv2d(channels, channels, 1)
        self.query = nn.Conv2d(channels, kernel * kernel, 1)
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Returns kernels (N, C, s, s) for a map (N, C, H, W)."""
        query = self.query(x).flatten(2)  # (N, s s, L)
        # The sum over positions grows with the map; their mean does not, and a norm may have running statistics.
        query = query.softmax(dim=2) if self.softmax else query / query.shape[2]
        kernels = self.key(x).flatten(2) @ query.mT  # (N, C, s s)
        return self.norm(kernels.unflatten(2, (self.kernel, self.kernel)))


def depthwise(x: Tensor, kernels: Tensor, dilation: int) -> Tensor:
    """Convolves every channel of every image with a kernel of its own.

    Args:
        x: (N, C, H, W).
        kernels: (N, C, s, s).
        dilation: of the kernels.

    Returns:
        (N, C, H, W), zeros beyond the borders.
    """
    channels = x.shape[0] * x.shape[1]
    padding = kernels.shape[-1] // 2 * dilation
    planes, weights = x.reshape(1, channels, *x.shape[2:]), kernels.reshape(channels, 1, *kernels.shape[2:])
    return F.conv2d(planes, weights, padding=padding, dilation=dilation, groups=channels).reshape(x.shape)


class ContextAdaptiveConvolution(nn.Module):
    """A map re-weighted by what convolutions with predicted kernels say of each of its values.

    Args:
        channels: C.
        kernel: s.
        dilations: of the convolutions.
        norm: makes the norms of the kernels.
        shared: predict one set of kernels for all dilations.
        softmax: as of :class:`PredictedKernels`.
        sigmoid_first: squash each convolution's map before they are added up, and not their sum.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel: int = 3,
        dilations: Sequence[int] = (1, 3, 5),
        norm: Norm = nn.BatchNorm2d,
        shared: bool = False,
        softmax: bool = False,
        sigmoid_first: bool = False,
    ) -> None:
        super().__init__()
        self.dilations, self.sigmoid_first = tuple(dilations), sigmoid_first
        count = 1 if shared else len(self.dilations)
        self.kernels = nn.ModuleList(
            PredictedKernels(channels, kernel, norm=norm, softmax=softmax) for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to the same shape."""
        predicted = [make(x) for make in self.kernels]
        sets = predicted * len(self.dilations) if len(predicted) == 1 else predicted
        maps = torch.stack([depthwise(x, kernels, step) for kernels, step in zip(sets, self.dilations)])
        return x * (maps.sigmoid().mean(dim=0) if self.sigmoid_first else maps.sum(dim=0).sigmoid())
