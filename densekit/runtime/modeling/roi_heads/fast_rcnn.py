"""Class scores and box refinements from region features: Fast R-CNN, https://arxiv.org/abs/1504.08083.

Shapes: N images, Ri proposals of image i, R of all images, K foreground classes; label K is background.
B = 4 numbers per box. Boxes are xyxy in input-image pixels; deltas are (dx, dy, dw, dh) of the box transform.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from densekit.runtime.config import CfgNode, configurable
from densekit.runtime.layers import ShapeSpec, batched_nms, cat, cross_entropy
from densekit.runtime.modeling.box_regression import BOX_LOSSES, Box2BoxTransform, box_loss
from densekit.runtime.structures import Boxes, Instances
from densekit.runtime.utils.events import get_event_storage

Predictions = tuple[torch.Tensor, torch.Tensor]


def fast_rcnn_inference(
    boxes: Sequence[torch.Tensor],
    scores: Sequence[torch.Tensor],
    image_shapes: Sequence[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[torch.Tensor]]:
    """Runs :func:`fast_rcnn_inference_single_image` on each image of a batch.

    Args:
        boxes: per image (Ri, K * 4), or (Ri, 4) for class-agnostic boxes.
        scores: per image (Ri, K + 1), probabilities.
        image_shapes: per image (height, width).
        score_thresh: detections score above this.
        nms_thresh: of two boxes of a class with a larger IoU the lower-scoring one goes.
        topk_per_image: the best this many are kept; all of them if negative.

    Returns:
        The detections of each image, and the index in [0, Ri) of the proposal that each came from.
    """
    results = [
        fast_rcnn_inference_single_image(b, s, shape, score_thresh, nms_thresh, topk_per_image)
        for b, s, shape in zip(boxes, scores, image_shapes)
    ]
    return [detections for detections, _ in results], [index for _, index in results]


def fast_rcnn_inference_single_image(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[Instances, torch.Tensor]:
    """Detections of one image: a score threshold, then non-maximum suppression within each class, then the best.

    Args and results are those of :func:`fast_rcnn_inference` for one image. Proposals with a number that is not finite
    are left out, and the returned index then counts the others. Boxes are clipped to the image.
    """
    finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
    if not finite.all():
        boxes, scores = boxes[finite], scores[finite]
    boxes = boxes.reshape(len(boxes), boxes.shape[1] // 4, 4)  # (Ri, K or 1, 4)
    scores = scores[:, :-1]

    proposal, category = (scores > score_thresh).nonzero(as_tuple=True)
    candidates = Boxes(boxes[proposal, category if boxes.shape[1] > 1 else 0])
    candidates.clip(image_shape)  # after the threshold: most of Ri * K boxes are gone by now
    confidence = scores[proposal, category]
    keep = batched_nms(candidates.tensor, confidence, category, nms_thresh)
    if topk_per_image >= 0:
        keep = keep[:topk_per_image]

    result = Instances(image_shape)
    result.pred_boxes = candidates[keep]
    result.scores = confidence[keep]
    result.pred_classes = category[keep]
    return result, proposal[keep]


def _log_accuracy(scores: torch.Tensor, gt_classes: torch.Tensor) -> None:
    """Puts the share of right labels, and of foreground right and missed, into the event storage."""
    if gt_classes.numel() == 0:
        return
    background = scores.shape[1] - 1
    predicted = scores.argmax(dim=1)
    right, foreground = predicted == gt_classes, (gt_classes >= 0) & (gt_classes < background)
    missed = foreground & (predicted == background)
    # One transfer for all counts: each would wait for the device by itself.
    counts = torch.stack([right.sum(), foreground.sum(), (right & foreground).sum(), missed.sum()]).tolist()
    storage = get_event_storage()
    storage.put_scalar("fast_rcnn/cls_accuracy", counts[0] / gt_classes.numel())
    if counts[1]:
        storage.put_scalar("fast_rcnn/fg_cls_accuracy", counts[2] / counts[1])
        storage.put_scalar("fast_rcnn/false_negative", counts[3] / counts[1])


class FastRCNNOutputLayers(nn.Module):
    """Two linear layers on region features: K + 1 class logits, and box deltas per class or one for all.

    Args:
        input_shape: shape of one region's feature; a plain number means channels.
        box2box_transform: from deltas to boxes and back.
        num_classes: K.
        test_score_thresh: see :func:`fast_rcnn_inference`.
        test_nms_thresh: see :func:`fast_rcnn_inference`.
        test_topk_per_image: see :func:`fast_rcnn_inference`.
        cls_agnostic_bbox_reg: one box per proposal instead of one per class.
        smooth_l1_beta: where smooth L1 turns from quadratic to linear; 0 is plain L1.
        box_reg_loss_type: "smooth_l1" on deltas, or "giou", "diou", "ciou" on boxes.
        loss_weight: one factor, or factors for the keys "loss_cls" and "loss_box_reg".

    Raises:
        ValueError: if the loss type is none of the four.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec | int,
        *,
        box2box_transform: Box2BoxTransform,
        num_classes: int,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        loss_weight: float | dict[str, float] = 1.0,
    ) -> None:
        super().__init__()
        if box_reg_loss_type not in BOX_LOSSES:
            raise ValueError(
                f"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE is {box_reg_loss_type!r}: use one of {list(BOX_LOSSES)}"
            )
        if isinstance(input_shape, int):
            input_shape = ShapeSpec(channels=input_shape)
        channels: Any = input_shape.channels
        size = channels * (input_shape.width or 1) * (input_shape.height or 1)
        self.cls_score = nn.Linear(size, num_classes + 1)
        regressed = 1 if cls_agnostic_bbox_reg else num_classes
        self.bbox_pred = nn.Linear(size, regressed * len(box2box_transform.weights))
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

        self.num_classes = num_classes
        self.box2box_transform = box2box_transform
        self.smooth_l1_beta = smooth_l1_beta
        self.box_reg_loss_type = box_reg_loss_type
        self.test_score_thresh = test_score_thresh
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_per_image = test_topk_per_image
        if not isinstance(loss_weight, dict):
            loss_weight = {"loss_cls": loss_weight, "loss_box_reg": loss_weight}
        self.loss_weight = loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | int) -> dict[str, Any]:
        node = cfg.MODEL.ROI_BOX_HEAD
        return {
            "input_shape": input_shape,
            "box2box_transform": Box2BoxTransform(weights=node.BBOX_REG_WEIGHTS),
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "cls_agnostic_bbox_reg": node.CLS_AGNOSTIC_BBOX_REG,
            "smooth_l1_beta": node.SMOOTH_L1_BETA,
            "test_score_thresh": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "test_nms_thresh": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "box_reg_loss_type": node.BBOX_REG_LOSS_TYPE,
            "loss_weight": {"loss_box_reg": node.BBOX_REG_LOSS_WEIGHT},
        }

    def forward(self, x: torch.Tensor) -> Predictions:
        """Class logits (R, K + 1) and deltas (R, K * B), or (R, B) if class-agnostic, from features (R, ...)."""
        x = x.flatten(start_dim=1)
        return self.cls_score(x), self.bbox_pred(x)

    def losses(self, predictions: Predictions, proposals: Sequence[Instances]) -> dict[str, torch.Tensor]:
        """The classification and the box loss.

        Args:
            predictions: what :meth:`forward` returned for these proposals.
            proposals: per image, with "proposal_boxes", "gt_classes" and, if the image has ground truth, "gt_boxes".

        Returns:
            Scalars "loss_cls" and "loss_box_reg"; both 0 without proposals.
        """
        scores, deltas = predictions
        gt_classes = cat([p.gt_classes for p in proposals])
        _log_accuracy(scores, gt_classes)
        proposal_boxes = cat([p.proposal_boxes.tensor for p in proposals])
        # An image without ground truth has background only, whose boxes take no part in the loss.
        gt_boxes = cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals])
        losses = {
            "loss_cls": cross_entropy(scores, gt_classes, reduction="mean"),
            "loss_box_reg": self.box_reg_loss(proposal_boxes, gt_boxes, deltas, gt_classes),
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def box_reg_loss(
        self, proposal_boxes: torch.Tensor, gt_boxes: torch.Tensor, pred_deltas: torch.Tensor, gt_classes: torch.Tensor
    ) -> torch.Tensor:
        """The regression loss of the foreground proposals, over the number of all proposals.

        Dividing by all of them gives each foreground proposal the same influence however few there are.

        Args:
            proposal_boxes: (R, B).
            gt_boxes: (R, B), the box that each proposal was matched with.
            pred_deltas: (R, K * B) or (R, B).
            gt_classes: (R,), labels in [0, K].
        """
        box_dim = proposal_boxes.shape[1]
        foreground = ((gt_classes >= 0) & (gt_classes < self.num_classes)).nonzero(as_tuple=True)[0]
        if pred_deltas.shape[1] == box_dim:
            deltas = pred_deltas[foreground]
        else:
            deltas = pred_deltas.unflatten(1, (self.num_classes, box_dim))[foreground, gt_classes[foreground]]
        source, target = proposal_boxes[foreground], gt_boxes[foreground]
        loss = box_loss(self.box2box_transform, deltas, source, target, self.box_reg_loss_type, self.smooth_l1_beta)
        return loss / max(gt_classes.numel(), 1.0)

    def inference(
        self, predictions: Predictions, proposals: Sequence[Instances]
    ) -> tuple[list[Instances], list[torch.Tensor]]:
        """Detections from predictions; see :func:`fast_rcnn_inference` for what is returned."""
        return fast_rcnn_inference(
            self.predict_boxes(predictions, proposals),
            self.predict_probs(predictions, proposals),
            [p.image_size for p in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )

    def predict_boxes(self, predictions: Predictions, proposals: Sequence[Instances]) -> tuple[torch.Tensor, ...]:
        """Refined boxes per image, (Ri, K * B) or (Ri, B)."""
        source = cat([p.proposal_boxes.tensor for p in proposals])
        return self.box2box_transform.apply_deltas(predictions[1], source).split([len(p) for p in proposals])

    def predict_boxes_for_gt_classes(
        self, predictions: Predictions, proposals: Sequence[Instances]
    ) -> tuple[torch.Tensor, ...]:
        """Refined boxes of each proposal's ground-truth class per image, (Ri, B).

        Background and ignored proposals have no class of their own and get the box of the nearest valid label.
        """
        source = cat([p.proposal_boxes.tensor for p in proposals])
        boxes = self.box2box_transform.apply_deltas(predictions[1], source)
        boxes = boxes.unflatten(1, (boxes.shape[1] // source.shape[1], source.shape[1]))
        gt_classes = cat([p.gt_classes for p in proposals]).clamp(0, boxes.shape[1] - 1)
        index = torch.arange(len(boxes), device=boxes.device)
        return boxes[index, gt_classes].split([len(p) for p in proposals])

    def predict_probs(self, predictions: Predictions, proposals: Sequence[Instances]) -> tuple[torch.Tensor, ...]:
        """Class probabilities per image, (Ri, K + 1)."""
        return F.softmax(predictions[0], dim=-1).split([len(p) for p in proposals])
