"""Global&Local's completion network, with any upsampling layer in the place of its two deconvolutions.

"Globally and Locally Consistent Image Completion" (ACM Transactions on Graphics 36(4), 2017), table 1. Its authors
published no training code: as in the public re-implementation whose weights are known, each convolution is followed by
ReLU and then BatchNorm.

N: images, H, W: size of the images, a multiple of 4.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from densekit.layers import Upsampler

from .generators import OUTPUTS

_DILATIONS = (1, 1, 2, 4, 8, 16, 1, 1)  # of the convolutions in the middle, at a quarter of the size


class GlobalLocal(nn.Module):
    """A dilated encoder and decoder that sees the picture and the hole.

    Args:
        widths: channels at the full size, at half of it, at a quarter, and before the last layer.
        upsampler: makes a layer that doubles the size, for a number of channels, which a convolution then reduces;
            None has the published deconvolutions, 4x4 with stride 2, which reduce them themselves.
        output: what the result goes through, a name of :data:`~.generators.OUTPUTS`.
        norm: makes the norm behind each convolution, for a number of channels.
    """

    size_divisibility = 4

    def __init__(
        self,
        *,
        widths: Sequence[int] = (64, 128, 256, 32),
        upsampler: Callable[[int], Upsampler] | None = None,
        output: str = "sigmoid",
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if len(widths) != 4:
            raise ValueError(f"GlobalLocal has 4 widths, and {list(widths)} are {len(widths)}.")
        full, half, quarter, last = widths
        self.output = OUTPUTS[output]

        def block(conv: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
            return nn.Sequential(conv, nn.ReLU(), norm(conv.out_channels))

        def doubling(channels: int, reduced: int) -> tuple[nn.Module, int]:
            """A doubling of the size, and the channels behind it."""
            if upsampler is not None:
                return upsampler(channels), channels
            return block(nn.ConvTranspose2d(channels, reduced, 4, stride=2, padding=1)), reduced

        self.encoder = nn.Sequential(
            block(nn.Conv2d(4, full, 5, padding=2)),
            block(nn.Conv2d(full, half, 3, stride=2, padding=1)),
            block(nn.Conv2d(half, half, 3, padding=1)),
            block(nn.Conv2d(half, quarter, 3, stride=2, padding=1)),
        )
        self.middle = nn.Sequential(
            *(block(nn.Conv2d(quarter, quarter, 3, padding=rate, dilation=rate)) for rate in _DILATIONS)
        )
        self.up1, first = doubling(quarter, half)
        self.conv1 = block(nn.Conv2d(first, half, 3, padding=1))
        self.up2, second = doubling(half, full)
        self.conv2 = block(nn.Conv2d(second, last, 3, padding=1))
        self.predictor = nn.Conv2d(last, 3, 3, padding=1)

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        """Paints.

        Args:
            image: (N, 3, H, W), normalised, with the fill value in holes.
            hole: (N, 1, H, W), 1 in holes.

        Returns:
            (N, 3, H, W), the whole picture anew.
        """
        x = self.middle(self.encoder(torch.cat([image, hole.to(image.dtype)], dim=1)))
        x = self.conv2(self.up2(self.conv1(self.up1(x))))
        return self.output(self.predictor(x))
