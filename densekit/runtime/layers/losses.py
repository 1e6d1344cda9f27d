"""Losses: box regression by overlap, and cross-entropy that survives empty batches."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F


def empty_input_loss_func_wrapper(loss_func: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Makes the mean of a loss over nothing 0, with a (zero) gradient, instead of NaN."""

    def wrapped_loss_func(
        input: torch.Tensor, target: torch.Tensor, *, reduction: str = "mean", **kwargs: Any
    ) -> torch.Tensor:
        if target.numel() == 0 and reduction == "mean":
            return input.sum() * 0.0
        return loss_func(input, target, reduction=reduction, **kwargs)

    return wrapped_loss_func


cross_entropy = empty_input_loss_func_wrapper(F.cross_entropy)


def diou_loss(boxes1: torch.Tensor, boxes2: torch.Tensor, reduction: str = "none", eps: float = 1e-7) -> torch.Tensor:
    """Distance-IoU loss, "Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression", arXiv:1911.08287.

    Args:
        boxes1: (..., 4) predicted boxes, xyxy with x1 >= x0 and y1 >= y0.
        boxes2: (..., 4) target boxes, likewise.
        reduction: ``none``, ``mean`` (0 over nothing) or ``sum``.
        eps: Added to the denominators.
    """
    iou, distance = _iou_and_distance(boxes1, boxes2, eps)
    return _reduce(1 - iou + distance, reduction)  # eq. 7


def ciou_loss(boxes1: torch.Tensor, boxes2: torch.Tensor, reduction: str = "none", eps: float = 1e-7) -> torch.Tensor:
    """Complete-IoU loss: distance-IoU and a term for the aspect ratio (arXiv:1911.08287); arguments as there."""
    iou, distance = _iou_and_distance(boxes1, boxes2, eps)
    w1, h1 = (boxes1[..., 2:] - boxes1[..., :2]).unbind(dim=-1)
    w2, h2 = (boxes2[..., 2:] - boxes2[..., :2]).unbind(dim=-1)
    aspect = (4 / math.pi**2) * (torch.atan(w2 / h2) - torch.atan(w1 / h1)).square()  # eq. 9
    with torch.no_grad():
        trade_off = aspect / (1 - iou + aspect + eps)  # eq. 11, a constant in the gradient
    return _reduce(1 - iou + distance + trade_off * aspect, reduction)  # eq. 10


def _iou_and_distance(a: torch.Tensor, b: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU, and the squared distance of the centres over the squared diagonal of the enclosing box."""
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(dim=-1)
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    offset = (a[..., :2] + a[..., 2:]) / 2 - (b[..., :2] + b[..., 2:]) / 2
    distance = offset.square().sum(dim=-1) / (hull.square().sum(dim=-1) + eps)
    return overlap / (area_a + area_b - overlap + eps), distance


def _reduce(loss: torch.Tensor, reduction: str) -> torch.Tensor:
    if reduction == "mean":
        return loss.mean() if loss.numel() else loss.sum() * 0.0
    if reduction == "sum":
        return loss.sum()
    if reduction != "none":
        raise ValueError(f"reduction={reduction!r} is not one of none, mean, sum.")
    return loss
