"""The encoder-decoder transformer of DETR, "End-to-End Object Detection with Transformers" (arXiv 2005.12872), A.3.

Unlike the original transformer, positions are added to the queries and keys of every attention and never to its values,
and all queries of the decoder are answered at once. Parameter names are those of the authors' code.

N: images, L: cells of the feature map, Q: object queries, D: width, K: decoder layers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from densekit.layers.attention import MultiheadAttention


class _Layer(nn.Module):
    """Base of encoder and decoder layers: the feed-forward part, and the position of the norms.

    Post-norm is ``norm(x + f(x))``, pre-norm ``x + f(norm(x))``.
    """

    def __init__(self, embed_dim: int, num_heads: int, ffn_dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = MultiheadAttention(embed_dim, num_heads, dropout=dropout)
        self.linear1 = nn.Linear(embed_dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def _residual(self, x: Tensor, norm: nn.Module, change: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre_norm:
            return x + self.dropout(change(norm(x)))
        return norm(x + self.dropout(change(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(F.relu(self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    """Self-attention over the cells, then two linear layers.

    Args:
        embed_dim: D.
        num_heads: heads of the attention.
        ffn_dim: width between the two linear layers.
        dropout: probability, everywhere.
        pre_norm: normalise what goes into a part rather than the sum behind it.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, *, ffn_dim: int, dropout: float = 0.1, pre_norm: bool = False
    ) -> None:
        super().__init__(embed_dim, num_heads, ffn_dim, dropout, pre_norm)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor, positions: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """One layer.

        Args:
            x: (N, L, D) cells.
            positions: (N or 1, L, D).
            attn_mask: (N, 1, 1, L) bool, False on the padding; None: there is none.

        Returns:
            (N, L, D).
        """

        def attend(cells: Tensor) -> Tensor:
            placed = cells + positions
            return self.self_attn(placed, placed, cells, attn_mask=attn_mask)

        x = self._residual(x, self.norm1, attend)
        return self._residual(x, self.norm2, self._feed_forward)

    def attention(self, x: Tensor, positions: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """The attention weights (N, heads, L, L) that :meth:`forward` uses inside."""
        placed = (self.norm1(x) if self.pre_norm else x) + positions
        return self.self_attn.weights(placed, placed, attn_mask=attn_mask)


class TransformerDecoderLayer(_Layer):
    """Self-attention over the queries, attention to the cells, then two linear layers.

    Args: as :class:`TransformerEncoderLayer`.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, *, ffn_dim: int, dropout: float = 0.1, pre_norm: bool = False
    ) -> None:
        super().__init__(embed_dim, num_heads, ffn_dim, dropout, pre_norm)
        self.multihead_attn = MultiheadAttention(embed_dim, num_heads, dropout=dropout)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        memory_keys: Tensor,
        query_positions: Tensor,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """One layer.

        Args:
            x: (N, Q, D) queries.
            memory: (N, L, D) encoded cells.
            memory_keys: (N, L, D) the same with their positions added.
            query_positions: (N or 1, Q, D) the learned embedding of each query.
            attn_mask: (N, 1, 1, L) bool, False on the padding; None: there is none.

        Returns:
            (N, Q, D).
        """

        def attend_cells(queries: Tensor) -> Tensor:
            return self.multihead_attn(queries + query_positions, memory_keys, memory, attn_mask=attn_mask)

        x = self._attend_queries(x, query_positions)
        x = self._residual(x, self.norm2, attend_cells)
        return self._residual(x, self.norm3, self._feed_forward)

    def attention(
        self,
        x: Tensor,
        memory: Tensor,
        memory_keys: Tensor,
        query_positions: Tensor,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        """The weights (N, heads, Q, L) of the attention to the cells that :meth:`forward` uses inside."""
        x = self._attend_queries(x, query_positions)
        queries = (self.norm2(x) if self.pre_norm else x) + query_positions
        return self.multihead_attn.weights(queries, memory_keys, attn_mask=attn_mask)

    def _attend_queries(self, x: Tensor, query_positions: Tensor) -> Tensor:
        def attend(queries: Tensor) -> Tensor:
            placed = queries + query_positions
            return self.self_attn(placed, placed, queries)

        return self._residual(x, self.norm1, attend)


class _Stack(nn.Module):
    """A list of layers, and a norm behind the last where there is one."""

    def __init__(self, layers: list[Any], norm: nn.Module | None, checkpointed: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.checkpointed = checkpointed

    def _run(self, layer: nn.Module, *inputs: Tensor | None) -> Tensor:
        if self.checkpointed and self.training:
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


class TransformerEncoder(_Stack):
    """Layers of :class:`TransformerEncoderLayer`, one after the other."""

    def forward(self, x: Tensor, positions: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(N, L, D) cells to (N, L, D) encoded cells; arguments as of the layer."""
        for layer in self.layers:
            x = self._run(layer, x, positions, attn_mask)
        return x if self.norm is None else self.norm(x)


class TransformerDecoder(_Stack):
    """Layers of :class:`TransformerDecoderLayer`; the norm behind them is applied to what each of them returns."""

    def forward(self, x: Tensor, *inputs: Tensor | None, every_layer: bool) -> Tensor:
        """Runs the layers.

        Args:
            x: (N, Q, D) queries.
            inputs: the further arguments of the layer.
            every_layer: return the states behind all layers and not only behind the last.

        Returns:
            (K or 1, N, Q, D).
        """
        states = []
        for layer in self.layers:
            x = self._run(layer, x, *inputs)
            states.append(x)
        kept = torch.stack(states if every_layer else states[-1:])
        return kept if self.norm is None else self.norm(kept)


class EncodedCells(NamedTuple):
    """Encoded cells and what the decoder needs to look at them.

    Attributes:
        memory: (N, L, D).
        places: (N or 1, L, D), their positions.
        visible: (N, 1, 1, L) bool, False on the padding; None: there is none.
    """

    memory: Tensor
    places: Tensor
    visible: Tensor | None


class Transformer(nn.Module):
    """Encodes the cells of a feature map and decodes object queries from them.

    Matrices start from Xavier's uniform distribution.

    Args:
        embed_dim: D.
        num_heads: heads of every attention.
        num_encoder_layers: layers of the encoder; with 0 the queries see the feature map itself.
        num_decoder_layers: K, at least 1.
        ffn_dim: width between the linear layers.
        dropout: probability, everywhere.
        pre_norm: see :class:`TransformerEncoderLayer`; the encoder then ends in a norm of its own.
        checkpointed: compute the layers anew in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_heads: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        pre_norm: bool = False,
        checkpointed: bool = False,
    ) -> None:
        super().__init__()
        if num_decoder_layers < 1:
            raise ValueError(f"a transformer without decoder layers answers no queries; got {num_decoder_layers}.")
        options: dict[str, Any] = {"ffn_dim": ffn_dim, "dropout": dropout, "pre_norm": pre_norm}
        encoder = [TransformerEncoderLayer(embed_dim, num_heads, **options) for _ in range(num_encoder_layers)]
        decoder = [TransformerDecoderLayer(embed_dim, num_heads, **options) for _ in range(num_decoder_layers)]
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.encoder = TransformerEncoder(encoder, nn.LayerNorm(embed_dim) if pre_norm else None, checkpointed)
        self.decoder = TransformerDecoder(decoder, nn.LayerNorm(embed_dim), checkpointed)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        features: Tensor,
        mask: Tensor | None,
        queries: Tensor,
        positions: Tensor,
        *,
        every_layer: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Encodes and decodes.

        Args:
            features: (N, D, H, W).
            mask: (N, H, W) bool, True on the padding; None: there is none.
            queries: (Q, D) embeddings of the queries.
            positions: (N or 1, D, H, W).
            every_layer: return the states of all decoder layers and not only of the last.

        Returns:
            The decoder's states (K or 1, N, Q, D), and the encoded cells (N, D, H, W).
        """
        cells = self.encode(features, mask, positions)
        states = self.decode(cells, queries[None], every_layer=every_layer)
        return states, cells.memory.transpose(1, 2).reshape(features.shape)

    def encode(self, features: Tensor, mask: Tensor | None, positions: Tensor) -> EncodedCells:
        """The first half of :meth:`forward`."""
        visible = None if mask is None else ~mask.flatten(1)[:, None, None]  # (N, 1, 1, L)
        places = positions.to(features.dtype).flatten(2).transpose(1, 2)  # (N or 1, L, D)
        memory = self.encoder(features.flatten(2).transpose(1, 2), places, visible)
        return EncodedCells(memory, places, visible)

    def decode(
        self, cells: EncodedCells, places: Tensor, *, start: Tensor | None = None, every_layer: bool = True
    ) -> Tensor:
        """The second half of :meth:`forward`.

        Args:
            cells: what :meth:`encode` returned.
            places: (N or 1, Q, D), added to the queries in every attention.
            start: (N, Q, D), what the queries hold before the first layer; None: zeros.
            every_layer: see :meth:`forward`.

        Returns:
            (K or 1, N, Q, D).
        """
        if start is None:
            start = cells.memory.new_zeros(len(cells.memory), *places.shape[1:])
        keys = cells.memory + cells.places
        return self.decoder(start, cells.memory, keys, places, cells.visible, every_layer=every_layer)
