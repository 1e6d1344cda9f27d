"""CARAFE as a layer: "CARAFE: Content-Aware ReAssembly of FEatures" (arXiv 1905.02188), section 3.

N: images, C: channels, Cm: compressed channels, G: groups, H, W: input size, s: scale, k: side of the window.
"""

from torch import Tensor, nn

from densekit.layers.upsample import Upsampler, depth_to_space, xavier_fill
from densekit.ops.carafe import carafe

NORMALIZERS = ("softmax", "sigmoid", "sigmoid_normalized")


class CARAFE(Upsampler):
    """Predicts a kernel for every output pixel from the content around it, and reassembles the features with it.

    Args:
        channels: C, of the input and of the output.
        scale_factor: s (sigma in the paper), how many times larger each side becomes.
        up_kernel: k_up, the side of the reassembly window.
        up_group: G, runs of channels with a kernel of their own; the paper has one.
        encoder_kernel: k_encoder, the side of the encoder's convolution, odd. The paper's rule is k_up - 2.
        encoder_dilation: of the same convolution.
        compressed_channels: Cm, after the 1x1 compressor; 0 leaves the compressor out ("N/A" of the paper's Table 6).
        normalizer: of the k * k weights of a kernel: ``"softmax"``, ``"sigmoid"``, or ``"sigmoid_normalized"``
            (divided by their sum).

    Raises:
        ValueError: A number is out of range or the normaliser is unknown.
    """

    def __init__(
        self,
        channels: int,
        *,
        scale_factor: int = 2,
        up_kernel: int = 5,
        up_group: int = 1,
        encoder_kernel: int = 3,
        encoder_dilation: int = 1,
        compressed_channels: int = 64,
        normalizer: str = "softmax",
    ) -> None:
        super().__init__(channels, scale_factor=scale_factor)
        if normalizer not in NORMALIZERS:
            raise ValueError(f"normalizer={normalizer!r} must be one of {NORMALIZERS}.")
        if encoder_kernel % 2 == 0:
            raise ValueError(
                f"encoder_kernel={encoder_kernel} must be odd, or the kernels would be off by half a pixel."
            )
        if up_kernel < 1 or up_group < 1 or channels % up_group:
            raise ValueError(
                f"up_kernel={up_kernel} must be positive and up_group={up_group} divide {channels} channels."
            )
        self.up_kernel, self.up_group = up_kernel, up_group
        self.compressed_channels = compressed_channels
        self.normalizer = normalizer
        width = compressed_channels or channels
        self.channel_compressor = nn.Conv2d(channels, width, 1) if compressed_channels else nn.Identity()
        self.content_encoder = nn.Conv2d(
            width,
            (scale_factor * up_kernel) ** 2 * up_group,
            encoder_kernel,
            padding=encoder_dilation * (encoder_kernel // 2),
            dilation=encoder_dilation,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kernels start almost uniform: the encoder's weights are tiny, which makes the first output a box blur."""
        if self.compressed_channels:
            xavier_fill(self.channel_compressor)
        xavier_fill(self.content_encoder)
        nn.init.normal_(self.content_encoder.weight, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return carafe(x, self.kernels(x), self.up_kernel, self.up_group, self.scale_factor)

    def kernels(self, x: Tensor) -> Tensor:
        """The reassembly kernels (N, G * k * k, sH, sW) for features (N, C, H, W), equations 3 and 4."""
        encoded = depth_to_space(self.content_encoder(self.channel_compressor(x)), self.scale_factor)
        weights = encoded.unflatten(1, (self.up_group, self.up_kernel**2))
        if self.normalizer == "softmax":
            weights = weights.softmax(dim=2)
        else:
            weights = weights.sigmoid()
            if self.normalizer == "sigmoid_normalized":
                weights = weights / weights.sum(dim=2, keepdim=True)
        return weights.flatten(1, 2)

    def flops_per_pixel(self) -> int:
        """The paper's formula: 2(C + 1)Cm + 2(Cm k_encoder^2 + 1) s^2 k_up^2 + 2 s^2 k_up^2 C, with its biases."""
        weights, (kernel_h, kernel_w) = self.content_encoder.out_channels, self.content_encoder.kernel_size
        compressor = 2 * (self.channels + 1) * self.compressed_channels
        encoder = 2 * (self.content_encoder.in_channels * kernel_h * kernel_w + 1) * weights
        return compressor + encoder + 2 * (self.scale_factor * self.up_kernel) ** 2 * self.channels

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, up_kernel={self.up_kernel}, up_group={self.up_group}, {self.normalizer}"
