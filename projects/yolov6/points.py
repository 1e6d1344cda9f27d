"""Positions of the maps on the image, and boxes around them. YOLOv6, arXiv 2209.02976, section 2.1.3 (after FCOS).

Shapes: N images, A positions of all levels, levels finest first, rows of a map one after another.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Size = tuple[int, int]


def positions(sizes: Sequence[Size], strides: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """The middle of every cell of every level.

    Args:
        sizes: height and width of each map.
        strides: image pixels per cell.
        like: gives device and type.

    Returns:
        Points (A, 2) as x, y in image pixels, and the stride of each (A, 1).
    """
    points, steps = [], []
    for (height, width), stride in zip(sizes, strides):
        ys, xs = (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5 for n in (height, width))
        points.append(torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1).view(-1, 2) * stride)
        steps.append(points[-1].new_full((height * width, 1), stride))
    return torch.cat(points), torch.cat(steps)


def distances_to_boxes(distances: Tensor, points: Tensor) -> Tensor:
    """Boxes (..., A, 4) xyxy around points (A, 2) from left, top, right, bottom (..., A, 4) in the same unit."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)


def boxes_to_distances(boxes: Tensor, points: Tensor, most: float) -> Tensor:
    """Left, top, right, bottom (..., A, 4) of points (A, 2) in boxes (..., A, 4) xyxy of the same unit.

    Args:
        boxes: true boxes.
        points: positions.
        most: number of the last bin; distances are clipped to 0 .. most - 0.01, so that there is a bin behind each.
    """
    distances = torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)
    return distances.clamp(0, most - 0.01)


def mean_of_bins(logits: Tensor) -> Tensor:
    """Distances (..., 4) as means of distributions (..., 4 B) over the bins 0 .. B - 1 (Generalized Focal Loss)."""
    shares = logits.unflatten(-1, (4, -1)).softmax(-1)
    return shares @ torch.arange(shares.shape[-1], device=shares.device, dtype=shares.dtype)
