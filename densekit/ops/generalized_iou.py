"""Generalized IoU with broadcasting: "Generalized Intersection over Union" (arXiv 1902.09630)."""

import torch
from torch import Tensor


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU less the share of the common hull that neither box covers.

    Unlike ``torchvision.ops.generalized_box_iou`` it takes any leading dimensions; unlike torchvision's loss it adds
    nothing to the denominators, which would count for small boxes in relative coordinates.

    Args:
        first: (..., 4) boxes, xyxy, in any unit.
        second: (..., 4) boxes that broadcast with ``first``: (N, 1, 4) and (M, 4) give a table of all pairs.

    Returns:
        (...) values in [-1, 1]; NaN where both boxes are the same point.
    """
    inner = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    outer = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    intersection = inner.clamp(min=0).prod(dim=-1)
    union = _area(first) + _area(second) - intersection
    hull = outer.clamp(min=0).prod(dim=-1)
    return intersection / union - (hull - union) / hull


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
