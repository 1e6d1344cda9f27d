"""Object-contextual representations: "Segmentation Transformer" (arXiv 1909.11065), section 3.2.

Shapes: N images, D channels of a pixel, K of a query or key, C classes (the object regions), H x W pixels.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


def region_representations(features: Tensor, scores: Tensor) -> Tensor:
    """The mean of the pixels of every soft object region (equation 8).

    Args:
        features: (N, D, H, W).
        scores: (N, C, H, W) of the regions; a softmax over the pixels makes weights of them.

    Returns:
        (N, D, C).
    """
    weights = scores.flatten(2).softmax(dim=2)
    return features.flatten(2) @ weights.transpose(1, 2)


class ObjectAttention(nn.Module):
    """Object context of each pixel: the regions, weighted by their similarity to it (equations 9 and 10).

    Args:
        channels: D.
        key_channels: K.
        norm: Makes the norms.
    """

    def __init__(self, *, channels: int, key_channels: int, norm: Norm) -> None:
        super().__init__()
        self.scale = key_channels**-0.5
        self.query = nn.Sequential(
            conv_norm_relu(channels, key_channels, norm), conv_norm_relu(key_channels, key_channels, norm)
        )
        self.key = nn.Sequential(
            conv_norm_relu(channels, key_channels, norm), conv_norm_relu(key_channels, key_channels, norm)
        )
        self.value = conv_norm_relu(channels, key_channels, norm)
        self.out = conv_norm_relu(key_channels, channels, norm)

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """Returns the context (N, D, H, W) of pixels (N, D, H, W) from regions (N, D, C)."""
        regions = regions.unsqueeze(3)  # (N, D, C, 1), for convolutions
        query = self.query(features).flatten(2)  # (N, K, HW)
        key, value = self.key(regions).flatten(2), self.value(regions).flatten(2)  # (N, K, C)
        attention = (query.transpose(1, 2) @ key * self.scale).softmax(dim=2)  # (N, HW, C)
        context = (value @ attention.transpose(1, 2)).unflatten(2, features.shape[-2:])  # (N, K, H, W)
        return self.out(context)


class ObjectContext(nn.Module):
    """Pixels beside their context, mixed by a 1x1 convolution (equation 7).

    Args:
        channels: D.
        key_channels: K.
        dropout: Probability that a channel of the output is dropped.
        norm: Makes the norms.
    """

    def __init__(self, *, channels: int, key_channels: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        self.attention = ObjectAttention(channels=channels, key_channels=key_channels, norm=norm)
        self.mix = conv_norm_relu(2 * channels, channels, norm)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: Tensor, scores: Tensor) -> Tensor:
        """Returns (N, D, H, W) for pixels (N, D, H, W) and the scores (N, C, H, W) of the regions."""
        context = self.attention(features, region_representations(features, scores))
        return self.dropout(self.mix(torch.cat([context, features], dim=1)))


def conv_norm_relu(
    in_channels: int, channels: int, norm: Norm, *, kernel_size: int = 1, bias: bool = False
) -> nn.Sequential:
    """A convolution that keeps the size, a norm and ReLU, under the numbers 0 to 2."""
    conv = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2, bias=bias)
    return nn.Sequential(conv, norm(channels), nn.ReLU())
