"""Positions of feature maps as vectors, fixed and learned (arXiv 2005.12872, appendix A.4).

N: images, D: width of the encoding, H, W: feature map.
"""

import math

import torch
from torch import Tensor, nn


class SinePositionEncoding(nn.Module):
    """Sines and cosines of y in the first half of the channels and of x in the second.

    Coordinates count the valid cells up to and including each one, as a share of the image's own size, times 2 pi.

    Args:
        embed_dim: D, a multiple of 4.
        temperature: T; wavelengths grow from 2 pi to T times that.

    Raises:
        ValueError: D is not a multiple of 4.
    """

    def __init__(self, embed_dim: int, *, temperature: float = 10000.0) -> None:
        super().__init__()
        if embed_dim % 4:
            raise ValueError(f"sine positions of y and x need a width that is a multiple of 4, not {embed_dim}.")
        features = torch.arange(embed_dim // 2, dtype=torch.float32)
        exponents = 2 * features.div(2, rounding_mode="floor") / (embed_dim // 2)
        self.register_buffer("wavelengths", temperature**exponents, persistent=False)

    wavelengths: Tensor

    def forward(self, mask: Tensor) -> Tensor:
        """Encodes every cell.

        Args:
            mask: (N, H, W) bool, True on the padding.

        Returns:
            (N, D, H, W) float32.
        """
        valid = ~mask
        axes = [self._encode(valid.cumsum(dim=axis, dtype=torch.float32), axis) for axis in (1, 2)]  # y, then x
        return torch.cat(axes, dim=3).permute(0, 3, 1, 2)

    def _encode(self, counts: Tensor, axis: int) -> Tensor:
        """(N, H, W) counts along an axis to (N, H, W, D / 2)."""
        last = counts.narrow(axis, counts.shape[axis] - 1, 1)
        angles = (counts / (last + 1e-6) * (2 * math.pi)).unsqueeze(-1) / self.wavelengths
        # sin and cos take turns: each pair of channels shares a wavelength.
        return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1).flatten(-2)


class LearnedPositionEncoding(nn.Module):
    """A learned vector for every column in the first half of the channels and for every row in the second.

    Args:
        embed_dim: D, even.
        max_size: the largest number of rows and of columns.
    """

    def __init__(self, embed_dim: int, *, max_size: int = 50) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(max_size, embed_dim // 2)
        self.col_embed = nn.Embedding(max_size, embed_dim // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, mask: Tensor) -> Tensor:
        """Encodes every cell; arguments and result as of :class:`SinePositionEncoding`.

        Raises:
            ValueError: the map has more rows or columns than were learned.
        """
        n, h, w = mask.shape
        if max(h, w) > self.row_embed.num_embeddings:
            raise ValueError(
                f"learned positions cover {self.row_embed.num_embeddings} rows and columns, the feature map has "
                f"{h} x {w}; use smaller images or sine positions."
            )
        columns = self.col_embed.weight[:w].expand(h, w, -1)
        rows = self.row_embed.weight[:h, None].expand(h, w, -1)
        return torch.cat((columns, rows), dim=2).permute(2, 0, 1).expand(n, -1, h, w)
