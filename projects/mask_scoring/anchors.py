"""Anchors of maskrcnn-benchmark, on which the authors' weights were trained.

Their sides are whole numbers of pixels at the stride of a level before they are scaled, and their centres are those of
the cells. That code base counts both ends of a box as inside of it; its anchor [x0, y0, x1, y1] is [x0, y0, x1 + 1,
y1 + 1] here, of the same width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY, DefaultAnchorGenerator


@ANCHOR_GENERATOR_REGISTRY.register()
class WholePixelAnchorGenerator(DefaultAnchorGenerator):
    """Anchors with sides that are rounded at the stride of their level.

    Args:
        sizes: As the host's.
        aspect_ratios: As the host's.
        strides: As the host's.
        offset: As the host's; 0.5 is the authors'.
    """

    @configurable
    def __init__(
        self, *, sizes: Sequence[Any], aspect_ratios: Sequence[Any], strides: Sequence[int], offset: float = 0.5
    ) -> None:
        super().__init__(sizes=sizes, aspect_ratios=aspect_ratios, strides=strides, offset=offset)
        count = len(strides)
        lists = [list(values) * (count if len(values) == 1 else 1) for values in (sizes, aspect_ratios)]
        for buffer, stride, level_sizes, ratios in zip(self.cell_anchors, strides, *lists):
            buffer.copy_(whole_pixel_anchors(stride, level_sizes, ratios))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        return super().from_config(cfg, input_shape)


def whole_pixel_anchors(stride: int, sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Anchors (len(sizes) * len(ratios), 4) around the origin, xyxy in pixels, sizes outermost as in the host.

    Args:
        stride: Of the level.
        sizes: Square roots of the areas, before rounding.
        ratios: Height / width.
    """
    corners = []
    for size in sizes:
        for ratio in ratios:
            width = round((stride * stride / ratio) ** 0.5)
            height = round(width * ratio)  # of half a pixel to the even number, as numpy does
            scale = size / stride / 2
            corners.append((-width * scale, -height * scale, width * scale, height * scale))
    return torch.tensor(corners, dtype=torch.float32)
