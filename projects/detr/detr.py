"""DETR, "End-to-End Object Detection with Transformers" (arXiv 2005.12872): features, transformer, two heads.

Parameter names are those of the authors' code.

B: images, Q: queries, C: classes, D: width of the transformer, K: decoder layers, H, W: last feature map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from densekit.layers.transformer import Transformer
from densekit.ops.precision import at_least_single

from .backbone import MaskedBackbone
from .heads import BoxMLP
from .query_selection import QuerySelection, Selected


@dataclass
class Encoded:
    """Output of the transformer for a batch.

    Attributes:
        features: the backbone's maps, finest first.
        source: (B, D, H, W), the last of them projected to the transformer's width.
        mask: (B, H, W) bool, True on the padding; None if there is none.
        states: (K or 1, B, Q, D) of the decoder's layers or of the last.
        memory: (B, D, H, W), encoded cells.
        selected: what the queries started from; None if they are the same for all images.
    """

    features: list[Tensor]
    source: Tensor
    mask: Tensor | None
    states: Tensor
    memory: Tensor
    selected: Selected | None = None


class DETR(nn.Module):
    """Predicts a set of classes and boxes.

    Args:
        backbone: feature maps and padding mask.
        position_encoding: maps a padding mask (B, H, W) to positions (B, D, H, W).
        transformer: encoder and decoder.
        in_channels: channels of the backbone's last map.
        num_classes: C, without "no object".
        num_queries: Q.
        aux_loss: also predict from the decoder layers before the last, in training.
        selection: chooses what the queries start from; None: they are the same for all images, as published.
    """

    def __init__(
        self,
        *,
        backbone: MaskedBackbone,
        position_encoding: nn.Module,
        transformer: Transformer,
        in_channels: int,
        num_classes: int,
        num_queries: int,
        aux_loss: bool,
        selection: QuerySelection | None = None,
    ) -> None:
        super().__init__()
        dim = transformer.embed_dim
        self.transformer = transformer
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.bbox_embed = BoxMLP(dim, 4)
        self.query_embed = nn.Embedding(num_queries, dim)
        self.input_proj = nn.Conv2d(in_channels, dim, kernel_size=1)
        self.backbone = nn.Sequential(backbone, position_encoding)  # children 0 and 1, as checkpoints have them
        self.aux_loss = aux_loss
        self.selection = selection

    def forward(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Predicts.

        Args:
            images: (B, 3, Hi, Wi), normalised, padded at the right and the bottom.
            sizes: (height, width) of each image before padding.

        Returns:
            ``pred_logits`` (B, Q, C + 1), the last class being "no object"; ``pred_boxes`` (B, Q, 4), cxcywh relative
            to each image without its padding. In training also ``aux_outputs``, the same of each earlier layer, if the
            model has ``aux_loss``, and ``enc_outputs``, the same of all cells, if it selects its queries from them.
        """
        return self.predict(self.encode(images, sizes))

    def encode(self, images: Tensor, sizes: Sequence[tuple[int, int]] | None) -> Encoded:
        """Everything before the heads; arguments as of :meth:`forward`, sizes None where nothing is padding."""
        features, mask = self.backbone[0](images, sizes)
        source = self.input_proj(features[-1])
        size = (source.shape[-2], source.shape[-1])
        cells = self.transformer.encode(source, mask, self.positions(source, mask))
        places, start, selected = self.query_embed.weight[None], None, None
        if self.selection is not None:
            selected = self.selection(cells, size, places.shape[1])
            start, places = selected.content + places[:, : selected.content.shape[1]], selected.places
        states = self.transformer.decode(cells, places, start=start, every_layer=self.training and self.aux_loss)
        memory = cells.memory.transpose(1, 2).reshape(source.shape)
        return Encoded(features, source, mask, states, memory, selected)

    def positions(self, source: Tensor, mask: Tensor | None) -> Tensor:
        """(B or 1, D, H, W): without padding all images share theirs."""
        if mask is None:
            mask = torch.zeros(1, *source.shape[-2:], dtype=torch.bool, device=source.device)
        return self.backbone[1](mask)

    def predict(self, encoded: Encoded) -> dict[str, Any]:
        """The heads on what the transformer made of a batch; returns as :meth:`forward`."""
        offsets = at_least_single(self.bbox_embed(encoded.states))  # half precision is coarser than a pixel
        if encoded.selected is not None:
            offsets = offsets + encoded.selected.boxes
        layers = [
            {"pred_logits": logits, "pred_boxes": boxes}
            for logits, boxes in zip(self.class_embed(encoded.states), offsets.sigmoid())
        ]
        outputs: dict[str, Any] = dict(layers[-1])
        if len(layers) > 1:
            outputs["aux_outputs"] = layers[:-1]
        if self.training and encoded.selected is not None:
            outputs["enc_outputs"] = encoded.selected.outputs
        return outputs
