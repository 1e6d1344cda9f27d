"""Multi-head attention, "Attention Is All You Need" (arXiv 1706.03762), that computes its weights only when asked to.

Parameters have the names and shapes of ``torch.nn.MultiheadAttention``, so that its weights load. Batch first.

N: batch, L: queries, S: keys, D: width, H: heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MultiheadAttention(nn.Module):
    """Attention of L queries over S keys in H heads of width D / H.

    Args:
        embed_dim: D.
        num_heads: H, a divisor of D.
        dropout: share of the attention weights that is dropped in training.

    Raises:
        ValueError: D is not a multiple of H.
    """

    def __init__(self, embed_dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"attention of width {embed_dim} cannot be divided among {num_heads} heads.")
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None = None) -> Tensor:
        """Attends.

        Args:
            query: (N, L, D).
            key: (N, S, D); the same tensor as ``query`` in self-attention is projected together with it.
            value: (N, S, D).
            attn_mask: bool, True where a query may look, broadcast to (N, H, L, S); None: everywhere.

        Returns:
            (N, L, D).
        """
        heads = self._heads(query, key, value)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*heads, attn_mask=attn_mask, dropout_p=dropout)  # (N, H, L, D / H)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def weights(self, query: Tensor, key: Tensor, *, attn_mask: Tensor | None = None) -> Tensor:
        """The attention weights of every head (N, H, L, S), without dropout; arguments as of :meth:`forward`."""
        queries, keys, _ = self._heads(query, key, key)
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        return scores.softmax(dim=-1)

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projects, and splits the width into heads: (N, H, L or S, D / H) each."""
        width = self.embed_dim
        if query is key:
            both = F.linear(query, self.in_proj_weight[: 2 * width], self.in_proj_bias[: 2 * width])
            q, k = both.split(width, dim=-1)
        else:
            q = F.linear(query, self.in_proj_weight[:width], self.in_proj_bias[:width])
            k = F.linear(key, self.in_proj_weight[width : 2 * width], self.in_proj_bias[width : 2 * width])
        v = F.linear(value, self.in_proj_weight[2 * width :], self.in_proj_bias[2 * width :])
        split = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        q, k, v = split
        return q, k, v
