"""Factorised attention with convolutional position encodings, the core of a path of MPViT (arXiv 2112.11010).

The attention is CoaT's (arXiv 2104.06399, section 3): it never forms an (L, L) matrix, so its cost is linear in L.

N: images, H, W: sides of a map, L = H W: its positions, C: channels, h: heads, c = C / h: channels of a head.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

# Side of the window -> how many heads have it, first heads first (CoaT, section 3.2).
WINDOWS: Mapping[int, int] = {3: 2, 5: 3, 7: 3}


class PositionEncoding(nn.Module):
    """Conditional position encoding: a depthwise 3x3 convolution added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Adds the encoding to a map (N, H, W, C)."""
        return x + self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class RelativePositionEncoding(nn.Module):
    """Relative positions as depthwise convolutions of the values, with a window by the head.

    Args:
        channels: C.
        num_heads: h, the number that the windows share out.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        if channels % num_heads or sum(WINDOWS.values()) != num_heads:
            raise ValueError(
                f"{num_heads} heads over {channels} channels: channels must divide by the heads, and the windows "
                f"{dict(WINDOWS)} are for {sum(WINDOWS.values())} heads."
            )
        self.widths = [heads * channels // num_heads for heads in WINDOWS.values()]
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, side, padding=side // 2, groups=width) for side, width in zip(WINDOWS, self.widths)
        )

    def forward(self, values: Tensor) -> Tensor:
        """Convolves values (N, H, W, C), channels head by head, and returns as many."""
        parts = values.permute(0, 3, 1, 2).split(self.widths, dim=1)
        return torch.cat([conv(part) for conv, part in zip(self.convs, parts)], dim=1).permute(0, 2, 3, 1)


class FactorisedAttention(nn.Module):
    """Multi-head attention in which keys and values are summed up before the queries read them."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (channels // num_heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, relative: RelativePositionEncoding) -> Tensor:
        """Attends within each image of (N, H, W, C).

        Args:
            x: the map.
            relative: the encoding of relative positions, which all layers of a path share.
        """
        batch, height, width, channels = x.shape
        query, key, value = self.qkv(x).chunk(3, dim=-1)  # (N, H, W, C) each

        def by_head(tensor: Tensor) -> Tensor:
            return tensor.reshape(batch, height * width, self.num_heads, -1).transpose(1, 2)  # (N, h, L, c)

        # CoaT, equation 4: the softmax is over positions, and the scale does not touch the relative term.
        summary = by_head(key).softmax(dim=2).transpose(2, 3) @ by_head(value)  # (N, h, c, c)
        content = (by_head(query) * self.scale) @ summary  # (N, h, L, c)
        content = content.transpose(1, 2).reshape(batch, height, width, channels)
        return self.proj(content + query * relative(value))


class Layer(nn.Module):
    """Pre-norm transformer layer of a path.

    Args:
        channels: C.
        num_heads: h.
        mlp_ratio: width of the hidden layer of the MLP, in C.
        drop_path: probability that a branch is left out, of each sample.
    """

    def __init__(self, channels: int, num_heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attention = FactorisedAttention(channels, num_heads)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.fc1, self.activation, self.fc2 = nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: Tensor, position: PositionEncoding, relative: RelativePositionEncoding) -> Tensor:
        """Refines (N, H, W, C) with the encodings of its path."""
        x = position(x)
        x = x + self.drop_path(self.attention(self.norm1(x), relative))
        return x + self.drop_path(self.fc2(self.activation(self.fc1(self.norm2(x)))))


class TransformerPath(nn.Module):
    """Layers that share one position encoding and one relative position encoding."""

    def __init__(self, channels: int, num_heads: int, mlp_ratio: float, drop_path: list[float]) -> None:
        super().__init__()
        self.position = PositionEncoding(channels)
        self.relative = RelativePositionEncoding(channels, num_heads)
        self.layers = nn.ModuleList(Layer(channels, num_heads, mlp_ratio, rate) for rate in drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to the same shape."""
        x = x.permute(0, 2, 3, 1)
        for layer in self.layers:
            x = layer(x, self.position, self.relative)
        return x.permute(0, 3, 1, 2)
