"""Regions of a picture warped to one size with some of their surroundings: R-CNN (arXiv 1311.2524), appendix A.

R: regions, S: side of a crop in pixels. Boxes are xyxy in pixels of the picture, whose first pixel spans 0 to 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["warp_regions"]


def warp_regions(picture: Tensor, boxes: Tensor, size: int, context: int) -> Tensor:
    """Warps each box, whatever its shape, to the same square.

    The box fills the square but for a border of ``context`` pixels, where its surroundings are; what lies outside the
    picture is 0, which is the mean of a normalised picture. Values between pixels are bilinear, without a filter.

    Args:
        picture: (C, H, W), normalised.
        boxes: (R, 4) with a positive extent.
        size: S.
        context: border in pixels of the crop, of less than S / 2.

    Returns:
        (R, C, S, S).

    Raises:
        ValueError: the border leaves nothing of the crop.
    """
    inner = size - 2 * context
    if context < 0 or inner < 1:
        raise ValueError(f"A border of {context} pixels on either side leaves nothing of a crop of {size} pixels.")
    height, width = picture.shape[-2:]
    # Middles of the crop's pixels, from 0 to 1 across the box.
    place = (torch.arange(size, device=picture.device, dtype=picture.dtype) + 0.5 - context) / inner
    low, extent = boxes[:, :2].to(picture.dtype), (boxes[:, 2:] - boxes[:, :2]).to(picture.dtype)
    x = low[:, 0:1] + extent[:, 0:1] * place  # (R, S)
    y = low[:, 1:2] + extent[:, 1:2] * place
    # From pixels to the range -1 to 1 of grid_sample.
    x, y = 2 * x / width - 1, 2 * y / height - 1
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=3)
    tall = grid.reshape(1, -1, size, 2)  # one picture and one sampling, instead of a copy of the picture for each box
    found = F.grid_sample(picture[None], tall, mode="bilinear", padding_mode="zeros", align_corners=False)
    return found[0].reshape(picture.shape[0], len(boxes), size, size).transpose(0, 1)
