"""Features of boxes of any size at a fixed resolution, each taken from the pyramid level that fits the box.

Level rule: "Feature Pyramid Networks" (arXiv:1612.03144), equation 1. Boxes are xyxy in pixels of the input image.
Shape shorthand: M boxes over the whole batch, C channels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import RoIPool

from densekit.runtime.layers import ROIAlign, cat, nonzero_tuple
from densekit.runtime.structures import Boxes


def assign_boxes_to_levels(
    box_lists: list[Boxes], min_level: int, max_level: int, canonical_box_size: int, canonical_level: int
) -> Tensor:
    """Chooses a pyramid level for each box.

    Args:
        box_lists: Boxes of each image.
        min_level: Finest level there is; level l has stride 2 ** l.
        max_level: Coarsest level there is.
        canonical_box_size: Square root of the area, in pixels, of a box that belongs to ``canonical_level``.
        canonical_level: See above.

    Returns:
        (M,) int64, 0 for ``min_level``, images one after the other.
    """
    sizes = torch.sqrt(cat([boxes.area() for boxes in box_lists]))
    # The small term keeps log2 finite for boxes of no area.
    levels = torch.floor(canonical_level + torch.log2(sizes / canonical_box_size + 1e-8))
    return levels.clamp(min=min_level, max=max_level).to(torch.int64) - min_level


def convert_boxes_to_pooler_format(box_lists: list[Boxes]) -> Tensor:
    """Boxes (M, 5) as the pooling operators take them: index of the image in the batch, then the corners."""
    boxes = torch.cat([item.tensor for item in box_lists])
    index = torch.cat([boxes.new_full((len(item), 1), image) for image, item in enumerate(box_lists)])
    return torch.cat((index, boxes), dim=1)


class ROIPooler(nn.Module):
    """Pools each box from the level of its size.

    Args:
        output_size: Side of the result in cells, or (height, width).
        scales: 1 / stride of each feature map, finest first, each half of the one before.
        sampling_ratio: Samples per cell and axis of ROIAlign; 0 takes as many as the cell has pixels.
        pooler_type: ``ROIAlignV2``, ``ROIAlign`` (without its half-pixel correction) or ``ROIPool``.
        canonical_box_size: See :func:`assign_boxes_to_levels`.
        canonical_level: See :func:`assign_boxes_to_levels`.

    Raises:
        ValueError: The pooler is unknown, or the scales are not those of a pyramid.
    """

    def __init__(
        self,
        output_size: int | Sequence[int],
        scales: Sequence[float],
        sampling_ratio: int,
        pooler_type: str,
        canonical_box_size: int = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        size = [output_size, output_size] if isinstance(output_size, int) else list(output_size)
        if len(size) != 2:
            raise ValueError(f"ROIPooler output_size={output_size} must be one number, or height and width.")
        self.output_size = (size[0], size[1])
        self.level_poolers = nn.ModuleList(
            _build_pooler(pooler_type, self.output_size, scale, sampling_ratio) for scale in scales
        )
        levels = [-math.log2(scale) for scale in scales]
        if levels != list(range(int(levels[0]), int(levels[0]) + len(scales))) or levels[0] < 0:
            raise ValueError(f"ROIPooler scales={list(scales)} must be powers of 1/2, each half of the one before.")
        self.min_level, self.max_level = int(levels[0]), int(levels[-1])
        self.canonical_box_size = canonical_box_size
        self.canonical_level = canonical_level

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Pools the boxes.

        Args:
            x: One feature map (N, C, Hi, Wi) per scale.
            box_lists: Boxes of each of the N images.

        Returns:
            (M, C, height, width), images one after the other.

        Raises:
            ValueError: The number of feature maps or of images is not the expected one.
        """
        if len(x) != len(self.level_poolers):
            raise ValueError(f"ROIPooler was built for {len(self.level_poolers)} feature maps, got {len(x)}.")
        if not box_lists:
            return x[0].new_zeros((0, x[0].shape[1], *self.output_size))
        if len(box_lists) != len(x[0]):
            raise ValueError(f"ROIPooler got boxes of {len(box_lists)} images and features of {len(x[0])}.")
        boxes = convert_boxes_to_pooler_format(box_lists)  # (M, 5)
        if len(x) == 1:
            return self.level_poolers[0](x[0], boxes)
        levels = assign_boxes_to_levels(
            box_lists, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )
        pooled = x[0].new_zeros((len(boxes), x[0].shape[1], *self.output_size))
        for level, (features, pooler) in enumerate(zip(x, self.level_poolers)):
            chosen = nonzero_tuple(levels == level)
            # In training an empty level stays in the graph: data-parallel training waits for all its gradients.
            if len(chosen[0]) == 0 and not torch.is_grad_enabled():
                continue
            pooled.index_put_(chosen, pooler(features, boxes[chosen]))
        return pooled


def _build_pooler(pooler_type: str, output_size: tuple[int, int], scale: float, sampling_ratio: int) -> nn.Module:
    if pooler_type in ("ROIAlign", "ROIAlignV2"):
        return ROIAlign(output_size, scale, sampling_ratio, aligned=pooler_type == "ROIAlignV2")
    if pooler_type == "ROIPool":
        return RoIPool(output_size, spatial_scale=scale)
    if pooler_type == "ROIAlignRotated":
        raise ValueError("ROIAlignRotated needs Detectron2's compiled operators; set DENSEKIT_HOST=detectron2.")
    raise ValueError(f"POOLER_TYPE={pooler_type!r} is not one of ROIAlignV2, ROIAlign, ROIPool.")
