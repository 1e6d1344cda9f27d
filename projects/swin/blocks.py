"""The layers of "Swin Transformer" (arXiv 2103.14030): window attention, the block, patch embedding and merging.

Shapes: N images, H x W map, C channels, M side of a window, T tokens of it, K windows of an image, A heads. Maps keep
their channels last: (N, H, W, C). Departure: attention runs in torch's fused kernel, with the sum of position bias and
shift mask as its mask.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from .windows import cut, join, missing, pad_to, relative_position_index


class WindowAttention(nn.Module):
    """Self-attention inside of windows, with a learned bias for each offset between two tokens (section 3.2).

    Args:
        channels: C, a multiple of the heads.
        window: Height and width of a window in tokens.
        heads: A.
        qkv_bias: Give queries, keys and values a bias.

    Raises:
        ValueError: The channels cannot be shared by the heads.
    """

    relative_position_index: Tensor

    def __init__(self, *, channels: int, window: tuple[int, int], heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"Swin: {channels} channels cannot be shared by {heads} heads (EMBED_DIM, NUM_HEADS).")
        self.heads = heads
        height, width = window
        table = torch.empty((2 * height - 1) * (2 * width - 1), heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        self.register_buffer("relative_position_index", relative_position_index(height, width), persistent=False)
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attends within each window.

        Args:
            x: (N * K, T, C), the windows of an image next to each other.
            mask: (K, T, T), added to the products of queries and keys.

        Returns:
            (N * K, T, C).
        """
        tokens = x.shape[1]
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (N * K, A, T, C / A)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]  # (T * T, A)
        bias = bias.t().contiguous().view(1, self.heads, tokens, tokens)  # the kernel reads along the keys
        if mask is not None:
            bias = bias + mask[:, None]  # (K, A, T, T)
            bias = bias.repeat(x.shape[0] // mask.shape[0], 1, 1, 1)
        if torch.compiler.is_exporting():
            # The fused kernel's result has an order in memory that its plain operators, of which a graph is made, lack.
            y = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1) + bias).softmax(dim=-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them.

    Args:
        channels: C.
        hidden: Width between the layers.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention and an MLP, each behind a norm and beside a shortcut (equation 3).

    Args:
        channels: C.
        heads: A.
        window: M.
        shift: How far the windows are moved against those of the block before; 0 or M // 2.
        mlp_ratio: Width of the MLP over C.
        qkv_bias: As :class:`WindowAttention`.
        drop_path: Probability that a sample skips the attention, and that it skips the MLP.
    """

    def __init__(
        self,
        *,
        channels: int,
        heads: int,
        window: int,
        shift: int = 0,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels=channels, window=(window, window), heads=heads, qkv_bias=qkv_bias)
        self.drop_path: nn.Module = StochasticDepth(drop_path, "row")
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps (N, H, W, C) to the same.

        Args:
            x: The map.
            mask: (K, T, T) of :func:`.windows.shift_mask` for the padded map, which a shifted block needs.
        """
        x = x + self.drop_path(self._attend(self.norm1(x), mask))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attention in windows; the padding behind the norm is no part of a mask and acts through the bias of qkv."""
        height, width = x.shape[1:3]
        x = pad_to(x, self.window)
        padded = x.shape[1:3]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        x = join(self.attn(cut(x, self.window), mask if self.shift else None), self.window, *padded)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]


class PatchEmbed(nn.Module):
    """A convolution that turns each patch of pixels into a token.

    Args:
        patch_size: Side of a patch in pixels.
        in_channels: Of the images.
        channels: C.
        norm: Normalise the tokens.
    """

    def __init__(self, *, patch_size: int = 4, in_channels: int = 3, channels: int = 96, norm: bool = True) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, channels, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(channels) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, height, width) to (N, H, W, C), after zeros below and to the right."""
        down, right = missing(x.shape[2], self.patch_size), missing(x.shape[3], self.patch_size)
        if torch.compiler.is_exporting() or down or right:
            x = F.pad(x, (0, right, 0, down))
        x = self.proj(x).permute(0, 2, 3, 1)
        return x.contiguous() if self.norm is None else self.norm(x)


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the channels (section 3.1).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, H / 2, W / 2, 2 C), rounded up: an odd side gets zeros."""
        x = pad_to(x, 2)
        # The published order: down the first column, then down the second.
        x = torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=-1)
        return self.reduction(self.norm(x))


def init_weights(module: nn.Module) -> None:
    """Truncated normal weights of 0.02 in every linear layer below, biases 0; convolutions keep torch's start."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
