"""SimOTA, of the first releases and the paper's Table 4: "YOLOX: Exceeding YOLO Series in 2021" (arXiv 2107.08430).

Plain torch. Shapes: N images, M objects of the image with the most, A positions, K classes.
"""

import torch
from torch import Tensor

from .assignment import (
    Assignment,
    Grid,
    Objects,
    Predictions,
    finish,
    one_object_each,
    pairwise_iou,
    points_inside,
)

_FAR = 1e5  # cost of a position that is not both in the box and near its middle
_NEVER = 1e9  # cost of one that is neither


def sim_ota(
    predictions: Predictions,
    grid: Grid,
    objects: Objects,
    *,
    most: int = 10,
    radius: float = 2.5,
    box_weight: float = 3.0,
) -> Assignment:
    """The cheapest positions of each object, as many as the sum of its best overlaps.

    Args:
        predictions: of the positions.
        grid: the positions.
        objects: of the batch.
        most: overlaps that are summed, so positions an object takes at most.
        radius: half the side of the square around an object's middle that is near, strides.
        box_weight: of the logarithm of the IoU in the cost.

    Returns:
        Scores are the IoU of the predicted box.
    """
    inside = points_inside(grid.points, objects)
    middle = (objects.boxes[..., :2] + objects.boxes[..., 2:]) / 2
    reach = (grid.points - middle[:, :, None]).abs().amax(-1)  # (N, M, A)
    near = (reach < radius * grid.strides[:, 0]) & objects.valid[..., None]
    overlap = pairwise_iou(objects.boxes, predictions.boxes) * (inside | near)
    cost = _class_cost(predictions.scores, objects.labels) - box_weight * (overlap + 1e-8).log()
    cost = cost + _FAR * ~(inside & near) + _NEVER * ~(inside | near)
    most = min(most, len(grid.points))
    wanted = overlap.topk(most, -1).values.sum(-1, keepdim=True).int().clamp(min=1)
    cheapest = cost.topk(most, -1, largest=False).indices
    taken = torch.arange(most, device=cost.device) < wanted
    chosen = torch.zeros_like(inside).scatter_(-1, cheapest, taken) & (inside | near)
    owner, chosen = one_object_each(chosen, -cost)
    return finish(chosen, owner, objects, (overlap * chosen).amax(1), predictions.scores.shape[-1])


def _class_cost(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (N, M, A) of probabilities (N, A, K) with each object's class alone."""
    log, rest = (value.clamp(1e-7, 1 - 1e-7).log().transpose(1, 2) for value in (scores, 1 - scores))
    index = labels[..., None].expand(-1, -1, scores.shape[1])
    return rest.gather(1, index) - log.gather(1, index) - rest.sum(1, keepdim=True)
