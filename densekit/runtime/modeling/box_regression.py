"""Box regression: as shifts and scales of a source box, or as distances to its edges; and the loss on either.

Boxes are xyxy in pixels. Shape shorthand: N images, R anchors over all levels, k box predictions per source box.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import Tensor

from densekit.runtime.layers import cat, ciou_loss, diou_loss
from densekit.runtime.structures import Boxes

# A 16-pixel anchor may grow to 1000 pixels at most: exp() of an untrained output must not overflow.
_DEFAULT_SCALE_CLAMP = math.log(1000.0 / 16)

_IOU_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}
BOX_LOSSES = ("smooth_l1", *_IOU_LOSSES)


class Box2BoxTransform:
    """R-CNN's parameters (dx, dy, dw, dh): shift of the centre in units of the size, logarithm of the growth.

    Args:
        weights: Factors on the four deltas, which bring them to about unit variance.
        scale_clamp: Largest dw and dh that :meth:`apply_deltas` believes.
    """

    def __init__(self, weights: tuple[float, float, float, float], scale_clamp: float = _DEFAULT_SCALE_CLAMP) -> None:
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """The deltas (R, 4) that turn ``src_boxes`` (R, 4) into ``target_boxes`` (R, 4).

        Raises:
            ValueError: A source box has no width. On the CPU only: on an accelerator the look would stall the queue.
        """
        if src_boxes.device.type == "cpu":
            _refuse_empty(src_boxes)
        shifts, growths = [], []
        for axis in (0, 1):
            size = src_boxes[:, axis + 2] - src_boxes[:, axis]
            target_size = target_boxes[:, axis + 2] - target_boxes[:, axis]
            center = src_boxes[:, axis] + 0.5 * size
            target_center = target_boxes[:, axis] + 0.5 * target_size
            shifts.append(self.weights[axis] * (target_center - center) / size)
            growths.append(self.weights[axis + 2] * torch.log(target_size / size))
        return torch.stack(shifts + growths, dim=1)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Decodes k predictions per box.

        Args:
            deltas: (R, k * 4).
            boxes: (R, 4) source boxes.

        Returns:
            (R, k * 4) boxes, in float32 where the deltas are of half precision.
        """
        deltas = deltas.float() if deltas.dtype in (torch.float16, torch.bfloat16) else deltas
        boxes = boxes.to(deltas.dtype)
        per_box = deltas.unflatten(1, (deltas.shape[1] // 4, 4))  # (R, k, 4)
        lows, highs = [], []
        for axis in (0, 1):
            size = boxes[:, axis + 2, None] - boxes[:, axis, None]  # (R, 1)
            center = boxes[:, axis, None] + 0.5 * size
            center = per_box[..., axis] / self.weights[axis] * size + center  # (R, k)
            growth = (per_box[..., axis + 2] / self.weights[axis + 2]).clamp(max=self.scale_clamp)
            half = 0.5 * (growth.exp() * size)
            lows.append(center - half)
            highs.append(center + half)
        return torch.stack(lows + highs, dim=-1).flatten(1)


class Box2BoxTransformLinear:
    """FCOS's parameters: distances from the centre of the source box to the four edges (arXiv:1904.01355).

    Args:
        normalize_by_size: Give the distances in units of the source box's width and height.
    """

    def __init__(self, normalize_by_size: bool = True) -> None:
        self.normalize_by_size = normalize_by_size

    def _frame(self, src_boxes: Tensor) -> tuple[Tensor, Tensor | float]:
        """Centres (R, 2) and the unit of the distances: sizes (R, 2), or 1 pixel."""
        low, high = src_boxes[:, :2], src_boxes[:, 2:]
        return 0.5 * (low + high), (high - low if self.normalize_by_size else 1.0)

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Distances (R, 4) left, top, right, bottom; positive where the source's centre lies inside the target."""
        center, unit = self._frame(src_boxes)
        return torch.cat(((center - target_boxes[:, :2]) / unit, (target_boxes[:, 2:] - center) / unit), dim=1)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (R, k * 4) from distances (R, k * 4); a negative distance counts as 0, or the box would be inverted."""
        center, unit = self._frame(boxes.to(deltas.dtype))
        distances = F.relu(deltas).unflatten(1, (deltas.shape[1] // 4, 2, 2))  # (R, k, low / high, x / y)
        if isinstance(unit, Tensor):
            distances = distances * unit[:, None, None]
        low, high = distances.unbind(dim=2)
        return torch.cat((center[:, None] - low, center[:, None] + high), dim=-1).flatten(1)


def _refuse_empty(boxes: Tensor) -> None:
    has_width = boxes[:, 2] > boxes[:, 0]
    if not bool(has_width.all()):
        bad = int(has_width.logical_not().nonzero()[0])
        raise ValueError(f"Source box {bad}, {boxes[bad].tolist()}, has no width; remove empty boxes first.")


def box_loss(
    transform: Box2BoxTransform | Box2BoxTransformLinear,
    deltas: Tensor,
    source: Tensor,
    target: Tensor,
    kind: str,
    smooth_l1_beta: float = 0.0,
) -> Tensor:
    """Sum of a box loss.

    Args:
        transform: Meaning of the deltas.
        deltas: (R, 4), predicted.
        source: (R, 4) boxes that the deltas refine.
        target: (R, 4) boxes that they should lead to.
        kind: ``smooth_l1`` on the deltas, or ``giou``, ``diou``, ``ciou`` on the decoded boxes.
        smooth_l1_beta: Where smooth L1 turns from square to linear; 0 is plain L1.

    Raises:
        ValueError: The kind is unknown.
    """
    if kind == "smooth_l1":
        return smooth_l1_loss(deltas, transform.get_deltas(source, target), smooth_l1_beta, reduction="sum")
    if kind not in _IOU_LOSSES:
        raise ValueError(f"BBOX_REG_LOSS_TYPE={kind!r} is not one of {', '.join(BOX_LOSSES)}.")
    return _IOU_LOSSES[kind](transform.apply_deltas(deltas, source), target, reduction="sum")


def _dense_box_regression_loss(
    anchors: Sequence[Boxes | Tensor],
    box2box_transform: Box2BoxTransform | Box2BoxTransformLinear,
    pred_anchor_deltas: list[Tensor],
    gt_boxes: list[Tensor],
    fg_mask: Tensor,
    box_reg_loss_type: str = "smooth_l1",
    smooth_l1_beta: float = 0.0,
) -> Tensor:
    """Sum of the box loss over the positive anchors of all levels and images.

    Args:
        anchors: Anchors of each level (Hi * Wi * A, 4), shared by the images.
        box2box_transform: Meaning of the deltas.
        pred_anchor_deltas: Per level (N, Hi * Wi * A, 4).
        gt_boxes: Per image (R, 4), the box that each anchor is matched with; read at positives only.
        fg_mask: (N, R) positives.
        box_reg_loss_type: See :func:`box_loss`.
        smooth_l1_beta: Likewise.
    """
    # Only the positives (some hundreds of a quarter of a million anchors) are encoded or decoded.
    deltas = cat(pred_anchor_deltas, dim=1)[fg_mask]
    targets = torch.stack(gt_boxes)[fg_mask]
    all_anchors = cat([level.tensor if isinstance(level, Boxes) else level for level in anchors])
    positive_anchors = all_anchors.expand(len(fg_mask), -1, -1)[fg_mask]
    return box_loss(box2box_transform, deltas, positive_anchors, targets, box_reg_loss_type, smooth_l1_beta)
