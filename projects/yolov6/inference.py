"""From the head's predictions to detections. YOLOv6, arXiv 2209.02976, appendix: evaluation.

Plain torch. Shapes: A positions of one image, K classes, D detections.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

# Candidates that enter the suppression at most; the number of pairs grows with its square.
_MOST_CANDIDATES = 30000


@dataclass(frozen=True)
class Selection:
    """Selection of detections by score and overlap.

    Attributes:
        score_threshold: least score.
        iou_threshold: of boxes of one class; the worse of two that overlap more is dropped.
        most: detections of an image.
        multi_label: a position may be of several classes; else of its best alone.
        agnostic: boxes of different classes suppress each other too.
    """

    score_threshold: float = 0.03
    iou_threshold: float = 0.65
    most: int = 300
    multi_label: bool = True
    agnostic: bool = False

    def __call__(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Chooses the detections of one image.

        Args:
            boxes: (A, 4) xyxy.
            scores: (A, K).

        Returns:
            Boxes (D, 4), scores (D,) and classes (D,), best first.
        """
        if not self.multi_label:
            best = scores.amax(1, keepdim=True)
            scores = torch.where(torch.zeros_like(scores).scatter_(1, scores.argmax(1, keepdim=True), 1) > 0, best, 0)
        where, classes = (scores > self.score_threshold).nonzero(as_tuple=True)
        values = scores[where, classes]
        if len(values) > _MOST_CANDIDATES:
            values, highest = values.topk(_MOST_CANDIDATES)
            where, classes = where[highest], classes[highest]
        groups = torch.zeros_like(classes) if self.agnostic else classes
        kept = batched_nms(boxes[where].float(), values.float(), groups, self.iou_threshold)[: self.most]
        return boxes[where[kept]], values[kept], classes[kept]


def boxes_in_picture(
    boxes: Tensor, offset: tuple[float, float], inner: tuple[float, float], size: tuple[int, int]
) -> Tensor:
    """Maps boxes of a resized picture with a border to the picture, and cuts them off at its sides.

    Args:
        boxes: (D, 4) xyxy, pixels of the network's input.
        offset: (left, top), the border before the resized picture.
        inner: (height, width) of the resized picture.
        size: (height, width) of the picture.

    Returns:
        (D, 4) xyxy, pixels of the picture.
    """
    shift = boxes.new_tensor([*offset, *offset])
    factors = boxes.new_tensor([size[1] / inner[1], size[0] / inner[0]] * 2)
    most = boxes.new_tensor([size[1], size[0]] * 2)
    return ((boxes - shift) * factors).clamp(min=0).minimum(most)
