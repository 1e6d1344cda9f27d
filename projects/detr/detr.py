"""DETR, "End-to-End Object Detection with Transformers" (arXiv 2005.12872): features, transformer, two heads.

Parameter names are those of the authors' code.

B: images, Q: queries, C: classes, D: width of the transformer, K: decoder layers, H, W: last feature map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.layers.transformer import Transformer

from .backbone import MaskedBackbone


class BoxMLP(nn.Module):
    """Three linear layers with ReLU between them.

    Args:
        dim: width of the input and between the layers.
        out_dim: width of the output.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, out_dim)])

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., out_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


@dataclass
class Encoded:
    """What the transformer made of a batch.

    Attributes:
        features: the backbone's maps, finest first.
        source: (B, D, H, W), the last of them projected to the transformer's width.
        mask: (B, H, W) bool, True on the padding; None if there is none.
        states: (K or 1, B, Q, D) of the decoder's layers or of the last.
        memory: (B, D, H, W), encoded cells.
    """

    features: list[Tensor]
    source: Tensor
    mask: Tensor | None
    states: Tensor
    memory: Tensor


class DETR(nn.Module):
    """Predicts a set of classes and boxes.

    Args:
        backbone: feature maps and padding mask.
        position_encoding: maps a padding mask (B, H, W) to positions (B, D, H, W).
        transformer: encoder and decoder.
        in_channels: channels of the backbone's last map.
        num_classes: C, without "no object".
        num_queries: Q.
        query_groups: in training so many sets of Q queries, which do not see each other, learn from the same image side
            by side (Group DETR, arXiv 2207.13085); the first of them is the model.
        aux_loss: also predict from the decoder layers before the last, in training.
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
        query_groups: int = 1,
        aux_loss: bool,
    ) -> None:
        super().__init__()
        self.num_queries, self.query_groups = num_queries, query_groups
        dim = transformer.embed_dim
        self.transformer = transformer
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.bbox_embed = BoxMLP(dim, 4)
        self.query_embed = nn.Embedding(num_queries * query_groups, dim)
        self.input_proj = nn.Conv2d(in_channels, dim, kernel_size=1)
        self.backbone = nn.Sequential(backbone, position_encoding)  # children 0 and 1, as checkpoints have them
        self.aux_loss = aux_loss

    def forward(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Predicts.

        Args:
            images: (B, 3, Hi, Wi), normalised, padded at the right and the bottom.
            sizes: (height, width) of each image before padding.

        Returns:
            ``pred_logits`` (B, Q, C + 1), the last class being "no object"; ``pred_boxes`` (B, Q, 4), cxcywh relative
            to each image without its padding; in training with ``aux_loss`` also ``aux_outputs``, the same of each
            earlier layer. Query groups, in training, make B that many times the number of images, group by group.
        """
        return self.predict(self.encode(images, sizes).states)

    def encode(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Encoded:
        """Everything before the heads; arguments as of :meth:`forward`."""
        features, mask = self.backbone[0](images, sizes)
        source = self.input_proj(features[-1])
        groups = self.query_groups if self.training else 1
        states, memory = self.transformer(
            source,
            mask,
            self.query_embed.weight[: groups * self.num_queries],
            self.positions(source, mask),
            every_layer=self.training and self.aux_loss,
            query_mask=self._same_group(groups) if groups > 1 else None,
        )
        # (K, B, GQ, D) to (K, GB, Q, D): a group of queries is to the losses another image.
        states = torch.cat(states.split(self.num_queries, dim=2), dim=1)
        return Encoded(features, source, mask, states, memory)

    def _same_group(self, groups: int) -> Tensor:
        """(GQ, GQ) bool, True where two queries are of one group."""
        group = torch.arange(groups, device=self.query_embed.weight.device).repeat_interleave(self.num_queries)
        return group[:, None] == group

    def positions(self, source: Tensor, mask: Tensor | None) -> Tensor:
        """(B or 1, D, H, W): without padding all images share theirs."""
        if mask is None:
            mask = torch.zeros(1, *source.shape[-2:], dtype=torch.bool, device=source.device)
        return self.backbone[1](mask)

    def predict(self, states: Tensor) -> dict[str, Any]:
        """The two heads on the decoder's states (K, B, Q, D); returns as :meth:`forward`."""
        layers = [
            {"pred_logits": logits, "pred_boxes": boxes}
            # Boxes in single precision: half of it is coarser than a pixel.
            for logits, boxes in zip(self.class_embed(states), self.bbox_embed(states).float().sigmoid())
        ]
        outputs: dict[str, Any] = dict(layers[-1])
        if len(layers) > 1:
            outputs["aux_outputs"] = layers[:-1]
        return outputs
