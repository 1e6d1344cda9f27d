"""Convolution, norm and activation as one module of plain torch, for networks that need no host."""

from collections.abc import Callable

from torch import Tensor, nn

# From a number of channels to the layer that normalises them.
Norm = Callable[[int], nn.Module]


class ConvNorm(nn.Module):
    """Convolution without bias, norm, activation; sides that stride 1 leaves as they are.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: side of the kernel, or (height, width).
        norm: makes the norm.
        stride: of the convolution.
        dilation: of the convolution.
        groups: of the convolution.
        activation: behind the norm; None for none.
    """

    folds = (("conv", "norm"),)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        *,
        norm: Norm = nn.BatchNorm2d,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2 * dilation, sides[1] // 2 * dilation)
        self.conv = nn.Conv2d(in_channels, out_channels, sides, stride, padding, dilation, groups, bias=False)
        self.norm = norm(out_channels)
        self.activation = activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.activation(self.norm(self.conv(x)))
