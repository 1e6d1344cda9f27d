"""The losses. YOLOv6, arXiv 2209.02976, sections 2.3 and 2.4.1.

Every sum over a batch is divided by the sum of the target scores of all processes, over the number of processes: with
averaged gradients that is the loss of one process with the batches of all.

Plain torch. Shapes: N images, A positions, K classes, B bins, P positions with an object.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.ops.box_losses import box_loss
from densekit.ops.quality_losses import CLASS_LOSSES, distribution_focal_loss

from .assignment import Assigner, Assignment, Grid, Objects, Predictions, nothing_to_find
from .distillation import Lesson, bin_divergence, class_divergence, teacher_from
from .head import EfficientDecoupledHead, HeadOutputs
from .points import boxes_to_distances, distances_to_boxes, mean_of_bins, positions


@dataclass(frozen=True)
class LossWeights:
    """Factors of the losses: of the classes, the boxes, their distributions and the objectness."""

    classes: float = 1.0
    boxes: float = 2.5
    bins: float = 0.5
    objects: float = 1.0


@dataclass(frozen=True)
class _Branch:
    """One kind of predictions of the positions: logits (N, A, K), boxes (N, A, 4), which :class:`Assignment` is theirs.

    ``norm`` divides sums; ``positives`` is the mean number of positions with an object in a process.
    """

    logits: Tensor
    assigned: Assignment
    norm: Tensor
    positives: Tensor

    @property
    def weights(self) -> Tensor:
        """Of the positions with an object, (P,)."""
        return self.assigned.scores.sum(-1)[self.assigned.positive].to(self.logits.dtype)


class DetectionLoss(nn.Module):
    """The losses of the head's outputs.

    Args:
        strides: of the levels.
        class_loss: one of ``densekit.ops.quality_losses.CLASS_LOSSES``.
        box_loss: one of ``densekit.ops.box_losses.BOX_LOSSES``.
        weights: factors.
        least_score_sum: sums of target scores up to this one do not divide.
        anchor_assigner: of the anchors that aid the training; IoU there is SIoU.

    Raises:
        ValueError: the loss of the classes is unknown.
    """

    def __init__(
        self,
        *,
        strides: list[int],
        class_loss: str = "vfl",
        box_loss: str = "siou",
        weights: LossWeights = LossWeights(),
        least_score_sum: float = 1.0,
        anchor_assigner: Assigner,
    ) -> None:
        super().__init__()
        if class_loss not in CLASS_LOSSES:
            raise ValueError(f"MODEL.YOLOV6.LOSS.CLASS is {class_loss!r}; it can be one of {', '.join(CLASS_LOSSES)}.")
        self.strides, self.box_loss, self.weights = strides, box_loss, weights
        self.class_loss, self.least_score_sum = CLASS_LOSSES[class_loss], least_score_sum
        self.anchor_assigner = anchor_assigner

    def forward(
        self, outputs: HeadOutputs, objects: Objects, assigner: Assigner, lesson: Lesson | None = None
    ) -> dict[str, Tensor]:
        """The weighted losses.

        Args:
            outputs: of the head in training, in float32.
            objects: of the batch.
            assigner: of the plain predictions.
            lesson: of a teacher.

        Returns:
            ``loss_cls`` and ``loss_box``; where predicted ``loss_dfl``, ``loss_object`` and, of anchors,
            ``loss_cls_anchor`` and ``loss_box_anchor``.
        """
        points, strides = positions(outputs.sizes, self.strides, outputs.logits)
        grid = Grid(points, strides, [height * width for height, width in outputs.sizes])
        plain = outputs.distances if outputs.distances.shape[-1] == 4 else mean_of_bins(outputs.distances)
        bins = outputs.bins if outputs.bins is not None else outputs.distances
        boxes = [distances_to_boxes(plain * strides, points)]
        if outputs.bins is not None:  # both kinds of boxes learn; the distributions' are assigned
            boxes.insert(0, distances_to_boxes(mean_of_bins(bins) * strides, points))
        least = 0.0 if lesson else self.least_score_sum
        branch = self._assign(outputs.logits, outputs.objectness, boxes[0], grid, objects, assigner, least)
        losses = {
            "loss_cls": self._class_loss(branch),
            "loss_box": torch.stack([self._box_loss(branch, x) for x in boxes]).sum(),
        }
        if bins.shape[-1] > 4:
            losses["loss_dfl"] = self._bin_loss(branch, bins, grid)
        if outputs.objectness is not None:
            losses["loss_object"] = self._object_loss(branch, outputs.objectness)
        if lesson is not None:
            self._learn(losses, branch, bins, lesson)
        if outputs.anchor_logits is not None and outputs.anchor_boxes is not None:
            losses |= self._anchor_losses(outputs.anchor_logits, outputs.anchor_boxes, grid, objects)
        return losses

    def _assign(
        self,
        logits: Tensor,
        objectness: Tensor | None,
        boxes: Tensor,
        grid: Grid,
        objects: Objects,
        assigner: Assigner,
        least_score_sum: float,
    ) -> _Branch:
        scores = EfficientDecoupledHead.probabilities(logits, objectness).detach()
        predictions = Predictions(scores, boxes.detach())
        found = objects.boxes.shape[1] > 0
        assigned = assigner(predictions, grid, objects) if found else nothing_to_find(predictions)
        totals = torch.stack([assigned.scores.sum(), assigned.positive.sum().to(assigned.scores)])
        processes = 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(totals)
            processes = torch.distributed.get_world_size()
        norm = torch.where(totals[0] > least_score_sum, totals[0], 1.0) / processes
        return _Branch(logits, assigned, norm.to(logits.dtype), totals[1].clamp(min=1).to(logits.dtype) / processes)

    def _class_loss(self, branch: _Branch) -> Tensor:
        assigned = branch.assigned
        kind = F.one_hot(assigned.labels, branch.logits.shape[-1] + 1)[..., :-1].bool()
        quality = assigned.scores.to(branch.logits.dtype)
        return self.weights.classes * self.class_loss(branch.logits, quality, kind).sum() / branch.norm

    def _box_loss(self, branch: _Branch, boxes: Tensor, kind: str = "") -> Tensor:
        positive, targets = branch.assigned.positive, branch.assigned.boxes.to(boxes.dtype)
        loss = box_loss(boxes[positive], targets[positive], kind or self.box_loss)
        return self.weights.boxes * (loss * branch.weights).sum() / branch.norm

    def _bin_loss(self, branch: _Branch, bins: Tensor, grid: Grid) -> Tensor:
        positive, count = branch.assigned.positive, bins.shape[-1] // 4
        targets = boxes_to_distances(branch.assigned.boxes / grid.strides, grid.points / grid.strides, count - 1)
        logits = bins[positive].unflatten(-1, (4, count))
        loss = distribution_focal_loss(logits, targets[positive].to(bins.dtype)).mean(-1)
        return self.weights.bins * (loss * branch.weights).sum() / branch.norm

    def _object_loss(self, branch: _Branch, objectness: Tensor) -> Tensor:
        """Objectness (N, A, 1) learns the quality of the position's object (the ablation of section 2.3.3)."""
        quality = branch.assigned.scores.amax(-1, keepdim=True).to(objectness.dtype)
        loss = F.binary_cross_entropy_with_logits(objectness, quality, reduction="sum")
        return self.weights.objects * loss / branch.norm

    def _learn(self, losses: dict[str, Tensor], branch: _Branch, bins: Tensor, lesson: Lesson) -> None:
        """Adds what is learnt from a teacher to the losses of the classes and of the distributions."""
        scores, teacher_bins = teacher_from(lesson.outputs)
        processes = 1 if not torch.distributed.is_initialized() else torch.distributed.get_world_size()
        divergence = class_divergence(branch.logits.sigmoid(), scores, lesson.temperature) * processes
        weight = self.weights.classes * lesson.class_weight * lesson.share
        losses["loss_cls"] = losses["loss_cls"] + weight * divergence
        positive = branch.assigned.positive
        own = bins[positive].unflatten(-1, (4, -1))
        divergence = bin_divergence(own, teacher_bins[positive], lesson.temperature).mean(-1).sum() / branch.positives
        weight = self.weights.bins * lesson.bin_weight * lesson.share
        losses["loss_dfl"] = losses["loss_dfl"] + weight * divergence

    def _anchor_losses(self, logits: Tensor, boxes: Tensor, grid: Grid, objects: Objects) -> dict[str, Tensor]:
        """Losses of the anchors, each a position of its own."""
        repeats = logits.shape[1] // len(grid.points)
        points, strides = (
            torch.cat([level.repeat(repeats, 1) for level in table.split(list(grid.counts))])
            for table in (grid.points, grid.strides)
        )
        anchors = Grid(points, strides, [count * repeats for count in grid.counts])
        branch = self._assign(logits, None, boxes, anchors, objects, self.anchor_assigner, 0.0)
        return {"loss_cls_anchor": self._class_loss(branch), "loss_box_anchor": self._box_loss(branch, boxes, "siou")}
