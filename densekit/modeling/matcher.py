"""One-to-one matching of predictions and objects: the Hungarian matcher of DETR (arXiv 2005.12872), section 3.1.

B: images, Q: predictions of an image, C: classes, Ti: objects of image i, T: the largest Ti.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert

from densekit.ops.generalized_iou import generalized_iou
from densekit.ops.precision import at_least_single

Targets = Sequence[dict[str, Any]]
Matches = list[tuple[Tensor, Tensor]]


class HungarianMatcher(nn.Module):
    """Finds the assignment of objects to predictions of the least total cost.

    The cost of a pair is ``-class_weight * probability + l1_weight * L1 - giou_weight * GIoU``.

    Args:
        class_weight: weight of the softmax probability of the object's class.
        l1_weight: weight of the summed distance of the relative cxcywh boxes.
        giou_weight: weight of the generalized IoU.
    """

    def __init__(self, *, class_weight: float = 1.0, l1_weight: float = 5.0, giou_weight: float = 2.0) -> None:
        super().__init__()
        self.class_weight, self.l1_weight, self.giou_weight = class_weight, l1_weight, giou_weight
        self._warned = False

    @torch.no_grad()
    def forward(self, outputs: dict[str, Any], targets: Targets) -> Matches:
        """Matches a batch; the costs of all pairs travel to the CPU in one piece.

        Args:
            outputs: ``pred_logits`` (B, Q, >= C), ``pred_boxes`` (B, Q, 4) cxcywh relative to the image. B may be a
                multiple of the number of targets: the targets are then repeated, for several decoder layers at once.
            targets: per image ``labels`` (Ti,), ``boxes`` (Ti, 4) cxcywh relative to the image and, for messages,
                ``name``.

        Returns:
            Per image the indices of the matched predictions, ascending, and of their objects: two int64 tensors of
            min(Q, Ti) entries on the CPU.

        Raises:
            FloatingPointError: a cost is not finite; the message names the image.
        """
        from scipy.optimize import linear_sum_assignment  # slow to import, and most models match no queries

        costs = self.costs(outputs, targets).cpu().numpy()  # (B, Q, T)
        matches = []
        for image, cost in enumerate(costs):
            target = targets[image % len(targets)]
            cost = cost[:, : len(target["labels"])]
            if not np.isfinite(cost).all():
                raise FloatingPointError(_not_finite(outputs, target, image, len(targets)))
            self._warn_of_more_objects(cost, target)
            rows, columns = linear_sum_assignment(cost)
            matches.append((torch.from_numpy(rows), torch.from_numpy(columns)))
        return matches

    def costs(self, outputs: dict[str, Any], targets: Targets) -> Tensor:
        """The costs of all pairs (B, Q, T) on the device of the predictions; columns from Ti on are meaningless."""
        logits, boxes = at_least_single(outputs["pred_logits"]), at_least_single(outputs["pred_boxes"])
        repeats = len(logits) // len(targets)
        labels = pad_sequence([target["labels"] for target in targets], batch_first=True).repeat(repeats, 1)
        objects = pad_sequence([target["boxes"].to(boxes) for target in targets], batch_first=True)
        objects = objects.repeat(repeats, 1, 1)
        classes = labels[:, None].expand(-1, logits.shape[1], -1)  # (B, Q, T)
        probability = logits.softmax(dim=-1).gather(2, classes)
        distance = torch.cdist(boxes, objects, p=1)
        overlap = generalized_iou(_corners(boxes)[:, :, None], _corners(objects)[:, None])
        return self.l1_weight * distance - self.class_weight * probability - self.giou_weight * overlap

    def _warn_of_more_objects(self, cost: np.ndarray, target: dict[str, Any]) -> None:
        if cost.shape[1] > cost.shape[0] and not self._warned:
            self._warned = True
            logging.getLogger(__name__).warning(
                f"{target.get('name', 'An image')} has {cost.shape[1]} objects and the model {cost.shape[0]} queries; "
                "objects that find no query are not learned. Use more queries. Further such images are not reported."
            )


def _corners(boxes: Tensor) -> Tensor:
    return box_convert(boxes, "cxcywh", "xyxy")


def _not_finite(outputs: dict[str, Any], target: dict[str, Any], image: int, batch: int) -> str:
    sides = {"predicted classes": outputs["pred_logits"][image], "predicted boxes": outputs["pred_boxes"][image]}
    sides["annotated boxes"] = target["boxes"]
    wrong = [name for name, values in sides.items() if not torch.isfinite(values).all()]
    name = target.get("name", f"image {image % batch} of the batch")
    return f"The costs of matching {name} are not finite: {' and '.join(wrong) or 'boxes without area'}."
