"""Losses of one box against another: IoU, GIoU, DIoU, CIoU and SIoU, box by box.

- GIoU: "Generalized Intersection over Union" (arXiv 1902.09630).
- DIoU and CIoU: "Distance-IoU Loss" (arXiv 1911.08287).
- SIoU: "SIoU Loss: More Powerful Learning for Bounding Box Regression" (arXiv 2205.12740).

torchvision's GIoU and DIoU losses agree with these; its CIoU adds 1e-7 to some denominators whatever its argument says,
and it has no SIoU, so the five share their terms here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BOX_LOSSES", "box_loss"]


def box_loss(pred: Tensor, target: Tensor, kind: str, eps: float = 1e-10) -> Tensor:
    """1 - IoU and what the kind adds to it.

    Args:
        pred: (..., 4) boxes, xyxy, in any unit.
        target: (..., 4) boxes of the same shape and unit; those without area give 1 and no NaN.
        kind: of :data:`BOX_LOSSES`.
        eps: added to denominators.

    Returns:
        (...) losses, at least 0 up to rounding.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in BOX_LOSSES:
        raise ValueError(f"A loss of boxes {kind!r} is not known; it can be one of {', '.join(BOX_LOSSES)}.")
    return BOX_LOSSES[kind](_Pair(pred, target, eps))


@dataclass
class _Pair:
    """Predicted and true boxes with the terms that several losses have in common; sizes are (..., 2): width, height."""

    pred: Tensor
    target: Tensor
    eps: float

    def __post_init__(self) -> None:
        self.size, self.target_size = (box[..., 2:] - box[..., :2] for box in (self.pred, self.target))
        low, high = torch.minimum(self.pred, self.target), torch.maximum(self.pred, self.target)
        self.hull = high[..., 2:] - low[..., :2]
        intersection = (low[..., 2:] - high[..., :2]).clamp(min=0).prod(-1)
        self.union = self.size.prod(-1) + self.target_size.prod(-1) - intersection + self.eps
        self.iou = intersection / self.union

    @property
    def offset(self) -> Tensor:
        """From the true centre to the predicted one, (..., 2)."""
        return (self.pred[..., :2] + self.pred[..., 2:] - self.target[..., :2] - self.target[..., 2:]) / 2


def _iou(pair: _Pair) -> Tensor:
    return 1 - pair.iou


def _giou(pair: _Pair) -> Tensor:
    hull = pair.hull.prod(-1) + pair.eps
    return 1 - pair.iou + (hull - pair.union) / hull


def _diou(pair: _Pair) -> Tensor:
    return 1 - pair.iou + pair.offset.square().sum(-1) / (pair.hull.square().sum(-1) + pair.eps)


def _ciou(pair: _Pair) -> Tensor:
    """DIoU and the difference of the aspect ratios, whose weight is not differentiated (equations 10 to 12)."""
    shape, target_shape = (
        torch.atan(size[..., 0] / (size[..., 1] + pair.eps)) for size in (pair.size, pair.target_size)
    )
    v = 4 / math.pi**2 * (target_shape - shape).square()
    alpha = (v / (1 - pair.iou + v + pair.eps)).detach()
    return _diou(pair) + alpha * v


def _siou(pair: _Pair) -> Tensor:
    """Angle, distance and shape costs (equations 1 to 7 with theta = 4)."""
    dx, dy = pair.offset.abs().unbind(-1)
    # 1 - 2 sin^2(arcsin(x) - pi / 4) is the sine of twice the angle between the centres.
    angle = 2 * dx * dy / (dx.square() + dy.square() + pair.eps**2)
    gamma = (2 - angle)[..., None]
    distance = 1 - torch.exp(-gamma * (pair.offset / (pair.hull + pair.eps)).square())
    larger = torch.maximum(pair.size, pair.target_size) + pair.eps
    shape = (1 - torch.exp(-(pair.size - pair.target_size).abs() / larger)).pow(4)
    return 1 - pair.iou + (distance + shape).sum(-1) / 2


BOX_LOSSES: dict[str, Callable[[_Pair], Tensor]] = {
    "iou": _iou,
    "giou": _giou,
    "diou": _diou,
    "ciou": _ciou,
    "siou": _siou,
}
