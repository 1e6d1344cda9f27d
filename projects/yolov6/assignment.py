"""Assignment of objects to positions. YOLOv6, arXiv 2209.02976, section 2.2.

- Task alignment: "TOOD: Task-aligned One-stage Object Detection" (arXiv 2108.07755), section 3.2; the default.
- ATSS: "Bridging the Gap Between Anchor-based and Anchor-free Detection" (arXiv 1912.02424), section 3.2; the warm-up.

SimOTA is in simota.py. No loops over images or objects: those of a batch lie in one table, padded to the most.

Plain torch. Shapes: N images, M objects of the image with the most, A positions, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_EPS = 1e-9


@dataclass(frozen=True)
class Objects:
    """The objects of a batch.

    Attributes:
        labels: (N, M) classes; of padding 0.
        boxes: (N, M, 4) xyxy, image pixels; of padding 0.
        valid: (N, M) bool, false for padding.
    """

    labels: Tensor
    boxes: Tensor
    valid: Tensor

    @classmethod
    def of(cls, labels: Sequence[Tensor], boxes: Sequence[Tensor]) -> "Objects":
        """Pads the objects of each image, (M,) and (M, 4), to one table."""
        pad = torch.nn.utils.rnn.pad_sequence
        table = pad(list(boxes), batch_first=True)
        counts = torch.tensor([len(x) for x in boxes], device=table.device)
        valid = torch.arange(table.shape[1], device=table.device) < counts[:, None]
        return cls(pad(list(labels), batch_first=True).long(), table, valid)


@dataclass(frozen=True)
class Grid:
    """The positions of all levels.

    Attributes:
        points: (A, 2) x, y, image pixels.
        strides: (A, 1) image pixels.
        counts: positions of each level.
    """

    points: Tensor
    strides: Tensor
    counts: Sequence[int]


@dataclass(frozen=True)
class Assignment:
    """Targets of each position.

    Attributes:
        positive: (N, A) bool, whether there is an object.
        labels: (N, A) its class, K where there is none.
        boxes: (N, A, 4) its box; of any object where there is none.
        scores: (N, A, K) the quality that its class is to reach, 0 elsewhere.
    """

    positive: Tensor
    labels: Tensor
    boxes: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Predictions:
    """Current predictions of the network, without gradients.

    Attributes:
        scores: (N, A, K) probabilities.
        boxes: (N, A, 4) xyxy, image pixels.
    """

    scores: Tensor
    boxes: Tensor


Assigner = Callable[[Predictions, Grid, Objects], Assignment]


def task_aligned(
    predictions: Predictions,
    grid: Grid,
    objects: Objects,
    *,
    topk: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
) -> Assignment:
    """The positions in an object whose class and box together are best, score^alpha IoU^beta.

    Args:
        predictions: of the positions.
        grid: the positions.
        objects: of the batch.
        topk: positions an object takes at most.
        alpha: power of the score.
        beta: power of the IoU.

    Returns:
        Scores are the alignment, scaled so that each object's best position has its best IoU.
    """
    inside = points_inside(grid.points, objects)
    overlap = pairwise_iou(objects.boxes, predictions.boxes)
    score = predictions.scores.transpose(1, 2).gather(1, objects.labels[..., None].expand_as(overlap))
    alignment = score.pow(alpha) * overlap.pow(beta)
    chosen = top_positions(alignment * inside, min(topk, len(grid.points))) & inside
    owner, chosen = one_object_each(chosen, overlap)
    best_alignment = (alignment * chosen).amax(-1, keepdim=True)
    best_overlap = (overlap * chosen).amax(-1, keepdim=True)
    quality = (alignment * chosen * best_overlap / (best_alignment + _EPS)).amax(1)
    return finish(chosen, owner, objects, quality, predictions.scores.shape[-1])


def adaptive_selection(
    predictions: Predictions, grid: Grid, objects: Objects, *, topk: int = 9, anchor_size: float = 5
) -> Assignment:
    """The positions nearest to an object's middle whose squares overlap it more than most of these do.

    Levels with fewer than topk positions give all that they have.

    Args:
        predictions: of the positions, for the scores alone.
        grid: the positions.
        objects: of the batch.
        topk: positions of each level that are candidates.
        anchor_size: side of the square around a position, strides.

    Returns:
        Scores are the IoU of the predicted box.
    """
    half = grid.strides * anchor_size / 2
    squares = torch.cat([grid.points - half, grid.points + half], -1)
    overlap = pairwise_iou(objects.boxes, squares.to(objects.boxes.dtype).expand(len(objects.boxes), -1, -1))
    middle = (objects.boxes[..., :2] + objects.boxes[..., 2:]) / 2
    distance = torch.cdist(middle, grid.points.to(middle.dtype).expand(len(middle), -1, -1))  # (N, M, A)
    candidates = torch.cat(
        [top_positions(-level, min(topk, level.shape[-1])) for level in distance.split(list(grid.counts), -1)], -1
    )
    count = candidates.sum(-1, keepdim=True)
    mean = (overlap * candidates).sum(-1, keepdim=True) / count
    variance = ((overlap - mean).square() * candidates).sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    chosen = candidates & (overlap > mean + variance.sqrt()) & points_inside(grid.points, objects)
    owner, chosen = one_object_each(chosen, overlap)
    quality = (pairwise_iou(objects.boxes, predictions.boxes) * chosen).amax(1)
    return finish(chosen, owner, objects, quality, predictions.scores.shape[-1])


def points_inside(points: Tensor, objects: Objects) -> Tensor:
    """Tells which points (A, 2) lie inside which object, (N, M, A) bool; none lie in padding."""
    boxes = objects.boxes[:, :, None]
    return (torch.minimum(points - boxes[..., :2], boxes[..., 2:] - points).amin(-1) > _EPS) & objects.valid[..., None]


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU (N, M, A) of boxes (N, M, 4) and (N, A, 4), xyxy; 0 where both have no area."""
    low = torch.maximum(first[:, :, None, :2], second[:, None, :, :2])
    high = torch.minimum(first[:, :, None, 2:], second[:, None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1) for boxes in (first, second)]
    return common / (areas[0][:, :, None] + areas[1][:, None] - common + _EPS)


def top_positions(values: Tensor, count: int) -> Tensor:
    """The highest ``count`` of each row of (N, M, A), as (N, M, A) bool."""
    highest = values.topk(count, dim=-1).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(-1, highest, True)


def one_object_each(chosen: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
    """Gives a position that several objects have chosen to that of the highest overlap.

    Args:
        chosen: (N, M, A) bool.
        overlap: (N, M, A).

    Returns:
        The object of each position (N, A), 0 if none; and which position is which object's, (N, M, A) bool.
    """
    if chosen.shape[1] == 0:
        return chosen.new_zeros((len(chosen), chosen.shape[2]), dtype=torch.int64), chosen
    best = torch.zeros_like(chosen).scatter_(1, overlap.argmax(1, keepdim=True), True)
    chosen = torch.where((chosen.sum(1, keepdim=True) > 1), best, chosen)
    return chosen.int().argmax(1), chosen


def finish(chosen: Tensor, owner: Tensor, objects: Objects, quality: Tensor, num_classes: int) -> Assignment:
    """Targets from what was chosen.

    Args:
        chosen: (N, M, A) bool, one object a position at most.
        owner: (N, A), the object of each position.
        objects: of the batch.
        quality: (N, A), score of the class of the object.
        num_classes: K.
    """
    positive = chosen.any(1)
    labels = objects.labels.gather(1, owner)
    scores = quality.new_zeros(*positive.shape, num_classes)
    scores.scatter_(2, labels[..., None], (quality * positive)[..., None])
    boxes = objects.boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    return Assignment(positive, torch.where(positive, labels, num_classes), boxes, scores)


def nothing_to_find(predictions: Predictions) -> Assignment:
    """The assignment of a batch without objects."""
    scores, boxes = predictions.scores, predictions.boxes
    labels = torch.full(scores.shape[:2], scores.shape[-1], device=scores.device)
    return Assignment(labels < 0, labels, torch.zeros_like(boxes), torch.zeros_like(scores))
