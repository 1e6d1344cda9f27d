"""Queries that start from the encoder's own predictions: Efficient DETR (arXiv 2104.01318), section 4.

DETR's learned queries take hundreds of epochs to find out where to look. Here every encoded cell predicts a class and
a box, matched to the objects like the queries are; the best of them become the queries: what a cell holds is what its
query holds at first, and its box is where the query looks and what its prediction is an offset to.

B: images, Q: queries, D: width of the transformer, C: classes, L: cells, H, W: feature map.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from densekit.layers.transformer import EncodedCells
from densekit.ops.precision import at_least_single

from .heads import BoxMLP


@dataclass(frozen=True)
class Selected:
    """The chosen cells.

    Attributes:
        outputs: ``pred_logits`` (B, L, C + 1) and ``pred_boxes`` (B, L, 4) of all cells, to learn from.
        content: (B, Q, D), what the chosen cells hold.
        places: (B, Q, D), their boxes, as positions for the attention.
        boxes: (B, Q, 4), their boxes before the sigmoid.
    """

    outputs: dict[str, Tensor]
    content: Tensor
    places: Tensor
    boxes: Tensor


class QuerySelection(nn.Module):
    """Heads on the encoded cells, and the choice of the best cells.

    Args:
        dim: D, a multiple of 8.
        num_classes: C, without "no object".
    """

    wavelengths: Tensor

    _SIZE = 0.1  # of the box around a cell's centre that predictions are offsets to, as a share of the image
    _TEMPERATURE = 20.0  # of the sines of a box: coarser ones would hardly tell cells apart

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.bbox_embed = BoxMLP(dim, 4)
        self.place = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        exponents = torch.arange(dim // 8) / (dim // 8)
        self.register_buffer("wavelengths", self._TEMPERATURE**exponents, persistent=False)

    def forward(self, cells: EncodedCells, size: tuple[int, int], count: int) -> Selected:
        """Predicts from every cell and chooses.

        Args:
            cells: encoded cells of maps of H x W.
            size: (H, W).
            count: Q; of smaller maps all cells are chosen.
        """
        start = _around_centres(cells, size, self._SIZE)
        logits = self.class_embed(cells.memory)
        boxes = (at_least_single(self.bbox_embed(cells.memory)) + start).sigmoid()
        score = at_least_single(logits.detach()).softmax(dim=-1)[..., :-1].amax(dim=-1)
        if cells.visible is not None:
            score = score.masked_fill(~cells.visible[:, 0, 0], -1.0)
        best = score.topk(min(count, score.shape[1]), dim=1).indices[..., None]  # (B, Q, 1)
        chosen = boxes.detach().gather(1, best.expand(-1, -1, 4))
        return Selected(
            outputs={"pred_logits": logits, "pred_boxes": boxes},
            content=cells.memory.gather(1, best.expand(-1, -1, cells.memory.shape[2])),
            places=self.place(self._sines(chosen).to(cells.memory.dtype)),
            boxes=chosen.clamp(1e-4, 1 - 1e-4).logit(),
        )

    def _sines(self, boxes: Tensor) -> Tensor:
        """(B, Q, 4) boxes as (B, Q, D)."""
        angles = boxes[..., None] * (2 * math.pi) / self.wavelengths
        return torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(2)


def _around_centres(cells: EncodedCells, size: tuple[int, int], side: float) -> Tensor:
    """Boxes of one size around the centres of the cells, before the sigmoid, relative to each image: (B or 1, L, 4)."""
    memory, visible = cells.memory, cells.visible
    valid = memory.new_ones(1, *size) if visible is None else visible[:, 0, 0].unflatten(1, size).to(memory.dtype)
    valid = at_least_single(valid)
    centres = [(valid.cumsum(axis) - 0.5) / valid.sum(axis, keepdim=True).clamp(min=1) for axis in (2, 1)]  # x, y
    middle = torch.stack(centres, dim=-1).flatten(1, 2).clamp(0.01, 0.99)
    return torch.cat((middle, torch.full_like(middle, side)), dim=-1).logit()
