"""The U-Net of partial convolutions, with any upsampling layer in the decoder.

"Image Inpainting for Irregular Holes Using Partial Convolutions" (arXiv 1804.07723), section 3.2. Departure: with
``rescale`` False partial convolutions leave out the factor of the window, as those of the public re-implementation do,
whose weights are trained that way.

N: images, H, W: size of the images, L: levels. Inside, masks are validity masks, 1 where valid.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from densekit.layers import Upsampler
from densekit.layers.partial_conv import PartialConv2d

from .generators import OUTPUTS
from .masked_upsampling import MaskedUpsampler

_KERNELS = (7, 5, 5)  # of the first levels; the others have 3
_SLOPE = 0.2  # of the decoder's leaky ReLU


class PartialUNet(nn.Module):
    """An encoder of partial convolutions with stride 2 and a decoder that sees the encoder's maps.

    Args:
        widths: channels of the L levels of the encoder, finest first.
        upsampler: makes a layer that doubles the size, for a number of channels.
        rescale: of the partial convolutions.
        mask_threshold: of the masks that CARAFE enlarges.
        output: what the result goes through, a name of :data:`~.generators.OUTPUTS`.
        norm: makes the norms, for a number of channels.
        freeze_encoder_norm: keeps the statistics of the encoder's BatchNorm, as in the second phase of the recipe.

    Attributes:
        size_divisibility: images have sides that are multiples of it.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        upsampler: Callable[[int], Upsampler],
        rescale: bool = True,
        mask_threshold: float = 0.5,
        output: str = "none",
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        freeze_encoder_norm: bool = False,
    ) -> None:
        super().__init__()
        if not widths:
            raise ValueError("A PartialUNet needs the width of at least one level.")
        self.size_divisibility = 2 ** len(widths)
        self.output = OUTPUTS[output]
        self.freeze_encoder_norm = freeze_encoder_norm
        kernels = [*_KERNELS, *[3] * len(widths)]
        inputs = [3, *widths]  # inputs[i] and inputs[i + 1]: channels before and behind level i
        levels = range(len(widths))
        # No norm in the first layer and in the last.
        self.encoder = nn.ModuleList(
            PartialBlock(
                inputs[i],
                inputs[i + 1],
                kernels[i],
                stride=2,
                norm=norm if i > 0 else None,
                act=nn.ReLU(),
                bias=False,
                rescale=rescale,
            )
            for i in levels
        )
        self.upsamplers = nn.ModuleList(
            MaskedUpsampler(upsampler(inputs[i + 1]), threshold=mask_threshold) for i in levels
        )
        self.decoder = nn.ModuleList(
            PartialBlock(
                inputs[i + 1] + inputs[i],
                inputs[i],
                3,
                norm=norm if i > 0 else None,
                act=nn.LeakyReLU(_SLOPE) if i > 0 else nn.Identity(),
                bias=i == 0,
                rescale=rescale,
            )
            for i in levels
        )

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        """Paints.

        Args:
            image: (N, 3, H, W), normalised; what stands in holes does not matter.
            hole: (N, 1, H, W) or one per channel, 1 in holes.

        Returns:
            (N, 3, H, W), the whole picture anew.
        """
        return self.output(self.with_mask(image, hole)[0])

    def with_mask(self, image: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        """The last layer's output and its validity mask (N, 3, H, W), 0 where no valid pixel was in reach."""
        x, mask = image, (1 - hole).expand(-1, image.shape[1], -1, -1)
        skips = []
        for block in self.encoder:
            skips.append((x, mask))
            x, mask = block(x, mask)
        for upsample, block, (skip, skip_mask) in zip(
            reversed(self.upsamplers), reversed(self.decoder), reversed(skips)
        ):
            x, mask = upsample(x, mask[:, :1])  # all channels of a partial convolution's output have one mask
            mask = torch.cat([mask.expand(len(x), x.shape[1], -1, -1), skip_mask.expand(len(x), -1, -1, -1)], dim=1)
            x, mask = block(torch.cat([x, skip], dim=1), mask)
        return x, mask

    def train(self, mode: bool = True) -> "PartialUNet":
        super().train(mode)
        if self.freeze_encoder_norm:
            for module in self.encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


class PartialBlock(nn.Module):
    """A partial convolution that keeps or halves the size, maybe a norm, and an activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        norm: Callable[[int], nn.Module] | None,
        act: nn.Module,
        bias: bool,
        rescale: bool,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv = PartialConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=bias,
            rescale=rescale,
        )
        nn.init.kaiming_normal_(self.conv.weight)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        self.norm = nn.Identity() if norm is None else norm(out_channels)
        self.act = act

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """From features and validity mask to features and validity mask, both (N, D, h, w)."""
        x, mask = self.conv(x, mask)
        return self.act(self.norm(x)), mask
