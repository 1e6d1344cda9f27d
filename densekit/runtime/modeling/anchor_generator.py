"""Anchors: the boxes of fixed sizes and shapes at every location of a feature map (Faster R-CNN, arXiv:1506.01497)."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from densekit.runtime.config import CfgNode, configurable
from densekit.runtime.layers import ShapeSpec
from densekit.runtime.structures import Boxes
from densekit.runtime.utils.registry import Registry

ANCHOR_GENERATOR_REGISTRY = Registry("ANCHOR_GENERATOR")
ANCHOR_GENERATOR_REGISTRY.__doc__ = """Called as ``obj(cfg, input_shape)`` with a ShapeSpec per feature map."""


class BufferList(nn.Module):
    """A list of tensors that moves with the model and stays out of its checkpoints."""

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        super().__init__()
        for index, buffer in enumerate(buffers):
            self.register_buffer(str(index), buffer, persistent=False)

    def __len__(self) -> int:
        return len(self._buffers)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.buffers(recurse=False))


def _one_per_level(values: Sequence[Any], num_levels: int, name: str) -> list[Sequence[float]]:
    """Repeats a single list of numbers for every level; passes a list per level on."""
    if not isinstance(values, Sequence) or not values:
        raise ValueError(f"Anchor {name} must be a non-empty list, got {values!r}.")
    per_level = list(values) if isinstance(values[0], Sequence) else [values]
    if len(per_level) == 1:
        per_level *= num_levels
    if len(per_level) != num_levels:
        raise ValueError(f"Anchor {name}={values} has {len(per_level)} entries for {num_levels} feature maps.")
    return per_level


@ANCHOR_GENERATOR_REGISTRY.register()
class DefaultAnchorGenerator(nn.Module):
    """Axis-aligned anchors.

    Args:
        sizes: Square roots of the anchor areas in pixels of the input image; one list for all levels, or one per level.
        aspect_ratios: Height / width; likewise.
        strides: Stride of each feature map.
        offset: Centre of the first anchor in units of the stride, in [0, 1).

    Raises:
        ValueError: A list does not fit the number of levels, or the offset is out of range.
    """

    box_dim = 4

    @configurable
    def __init__(
        self,
        *,
        sizes: Sequence[Any],
        aspect_ratios: Sequence[Any],
        strides: Sequence[int],
        offset: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0.0 <= offset < 1.0:
            raise ValueError(f"Anchor offset={offset} must be in [0, 1).")
        self.strides = strides
        self.offset = offset
        self.num_features = len(strides)
        sizes = _one_per_level(sizes, self.num_features, "sizes")
        aspect_ratios = _one_per_level(aspect_ratios, self.num_features, "aspect_ratios")
        self.cell_anchors = BufferList([self.generate_cell_anchors(s, r) for s, r in zip(sizes, aspect_ratios)])

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        keys = cfg.MODEL.ANCHOR_GENERATOR
        return {
            "sizes": keys.SIZES,
            "aspect_ratios": keys.ASPECT_RATIOS,
            "strides": [shape.stride for shape in input_shape],
            "offset": keys.OFFSET,
        }

    @property
    def num_anchors(self) -> list[int]:
        """Anchors per location of each feature map."""
        return [len(anchors) for anchors in self.cell_anchors]

    @property
    def num_cell_anchors(self) -> list[int]:
        """The same as :attr:`num_anchors`."""
        return self.num_anchors

    def generate_cell_anchors(
        self, sizes: Sequence[float] = (32, 64, 128, 256, 512), aspect_ratios: Sequence[float] = (0.5, 1, 2)
    ) -> Tensor:
        """Anchors (len(sizes) * len(aspect_ratios), 4) around the origin, xyxy in pixels, sizes outermost."""
        corners = []
        for size in sizes:
            for ratio in aspect_ratios:
                width = math.sqrt(size**2.0 / ratio)
                height = ratio * width
                corners.append((-width / 2.0, -height / 2.0, width / 2.0, height / 2.0))
        return torch.tensor(corners, dtype=torch.float32)

    def forward(self, features: list[Tensor]) -> list[Boxes]:
        """Returns the Hi * Wi * A anchors of each feature map (N, C, Hi, Wi), row by row, location by location."""
        return [
            Boxes(self._shifted(cell, feature.shape[-2], feature.shape[-1], stride))
            for cell, feature, stride in zip(self.cell_anchors, features, self.strides)
        ]

    def _shifted(self, cell: Tensor, height: int, width: int, stride: int) -> Tensor:
        start = self.offset * stride
        x = torch.arange(start, width * stride, step=stride, dtype=torch.float32, device=cell.device)
        y = torch.arange(start, height * stride, step=stride, dtype=torch.float32, device=cell.device)
        y, x = torch.meshgrid(y, x, indexing="ij")
        shifts = torch.stack((x, y, x, y), dim=-1)  # (Hi, Wi, 4)
        return (shifts[:, :, None] + cell).reshape(-1, 4)


def build_anchor_generator(cfg: CfgNode, input_shape: list[ShapeSpec]) -> nn.Module:
    """Builds ``cfg.MODEL.ANCHOR_GENERATOR.NAME`` for feature maps of these shapes."""
    return ANCHOR_GENERATOR_REGISTRY.get(cfg.MODEL.ANCHOR_GENERATOR.NAME)(cfg, input_shape)
