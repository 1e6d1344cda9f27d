"""RetinaNet: "Focal Loss for Dense Object Detection" (arXiv:1708.02002), a one-stage detector on anchors.

Shape shorthand: N images, A anchors per location, Hi, Wi size of the i-th feature map, Ri = Hi * Wi * A its anchors, R
their sum over the maps, K classes. Label K is background, -1 is ignored. Boxes are xyxy in pixels of the input image.
"""

from typing import Any

import torch
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, nn

from densekit.runtime.config import CfgNode, configurable
from densekit.runtime.layers import batched_nms, cat
from densekit.runtime.modeling.anchor_generator import build_anchor_generator
from densekit.runtime.modeling.backbone import Backbone
from densekit.runtime.modeling.box_regression import (
    Box2BoxTransform,
    Box2BoxTransformLinear,
    _dense_box_regression_loss,
)
from densekit.runtime.modeling.matcher import Matcher
from densekit.runtime.modeling.meta_arch.build import META_ARCH_REGISTRY, ImageModel
from densekit.runtime.modeling.meta_arch.dense_detector import DenseDetector
from densekit.runtime.modeling.meta_arch.retinanet_head import RetinaNetHead
from densekit.runtime.structures import Boxes, ImageList, Instances, pairwise_iou
from densekit.runtime.utils.events import get_event_storage

# The loss is divided by a running number of positive anchors, as that of a small batch jumps.
_NORMALIZER_START, _NORMALIZER_MOMENTUM = 100.0, 0.9


@META_ARCH_REGISTRY.register()
class RetinaNet(DenseDetector):
    """Class scores and a box for every anchor.

    Args:
        backbone: The backbone.
        head: Returns class logits (N, A * K, Hi, Wi) and box deltas (N, A * 4, Hi, Wi), a list of each.
        head_in_features: Names of the feature maps, finest first.
        anchor_generator: Makes the anchors of the maps.
        box2box_transform: Meaning of the deltas.
        anchor_matcher: Labels anchors by their overlap with the ground truth.
        num_classes: K.
        focal_loss_alpha: Weight of the positives against the negatives.
        focal_loss_gamma: Exponent that turns the loss away from what is easy.
        smooth_l1_beta: Where smooth L1 turns from square to linear; 0 is plain L1.
        box_reg_loss_type: ``smooth_l1``, ``giou``, ``diou`` or ``ciou``.
        test_score_thresh: Detections score above this.
        test_topk_candidates: Best scores of each map that are decoded.
        test_nms_thresh: Of two boxes of a class with a larger overlap the worse one goes.
        max_detections_per_image: Kept at most, after suppression.
        pixel_mean: Mean of each image channel.
        pixel_std: Standard deviation of each channel.
    """

    loss_normalizer: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: list[str],
        anchor_generator: nn.Module,
        box2box_transform: Box2BoxTransform | Box2BoxTransformLinear,
        anchor_matcher: Matcher,
        num_classes: int,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        test_score_thresh: float = 0.05,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.5,
        max_detections_per_image: int = 100,
        pixel_mean: list[float],
        pixel_std: list[float],
    ) -> None:
        super().__init__(backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.anchor_generator = anchor_generator
        self.box2box_transform = box2box_transform
        self.anchor_matcher = anchor_matcher
        self.num_classes = num_classes
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.smooth_l1_beta = smooth_l1_beta
        self.box_reg_loss_type = box_reg_loss_type
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image
        # A buffer, so that a step that is taken back takes it back too; published checkpoints do not have it.
        self.register_buffer("loss_normalizer", torch.tensor(_NORMALIZER_START), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options, keys = ImageModel.from_config(cfg), cfg.MODEL.RETINANET
        shapes = options["backbone"].output_shape()
        unknown = [name for name in keys.IN_FEATURES if name not in shapes]
        if unknown:
            raise ValueError(f"MODEL.RETINANET.IN_FEATURES {unknown} are not among the backbone's {list(shapes)}.")
        used = [shapes[name] for name in keys.IN_FEATURES]
        return options | {
            "head": RetinaNetHead(cfg, used),
            "head_in_features": keys.IN_FEATURES,
            "anchor_generator": build_anchor_generator(cfg, used),
            "box2box_transform": Box2BoxTransform(weights=keys.BBOX_REG_WEIGHTS),
            "anchor_matcher": Matcher(keys.IOU_THRESHOLDS, keys.IOU_LABELS, allow_low_quality_matches=True),
            "num_classes": keys.NUM_CLASSES,
            "focal_loss_alpha": keys.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": keys.FOCAL_LOSS_GAMMA,
            "smooth_l1_beta": keys.SMOOTH_L1_LOSS_BETA,
            "box_reg_loss_type": keys.BBOX_REG_LOSS_TYPE,
            "test_score_thresh": keys.SCORE_THRESH_TEST,
            "test_topk_candidates": keys.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": keys.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: tuple[list[Tensor], list[Tensor]],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """The losses of :meth:`losses` for a batch with ground truth."""
        logits, deltas = self._per_anchor(predictions)
        anchors = self.anchor_generator(features)
        gt_labels, gt_boxes = self.label_anchors(anchors, gt_instances)
        return self.losses(anchors, logits, gt_labels, deltas, gt_boxes)

    def _per_anchor(self, predictions: tuple[list[Tensor], list[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
        """Per map: (N, A * K, Hi, Wi) -> (N, Ri, K) and (N, A * 4, Hi, Wi) -> (N, Ri, 4), as the anchors lie."""
        logits, deltas = (
            [x.permute(0, 2, 3, 1).reshape(len(x), -1, numbers) for x in maps]
            for maps, numbers in zip(predictions, (self.num_classes, 4))
        )
        return logits, deltas

    @torch.no_grad()
    def label_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]) -> tuple[list[Tensor], list[Tensor]]:
        """Matches the anchors with the ground truth.

        Args:
            anchors: Anchors of each feature map.
            gt_instances: Per image ``gt_boxes`` and ``gt_classes``.

        Returns:
            Per image the labels (R,) in {-1, 0 ... K}, and the matched boxes (R, 4), which mean something where the
            label is a class.
        """
        all_anchors = Boxes.cat(anchors)
        gt_labels, matched_boxes = [], []
        for gt in gt_instances:
            matches, kinds = self.anchor_matcher(pairwise_iou(gt.gt_boxes, all_anchors))
            if len(gt) == 0:
                gt_labels.append(torch.full_like(matches, self.num_classes))
                matched_boxes.append(torch.zeros_like(all_anchors.tensor))
                continue
            labels = gt.gt_classes[matches]
            labels[kinds == 0] = self.num_classes
            labels[kinds == -1] = -1
            gt_labels.append(labels)
            matched_boxes.append(gt.gt_boxes.tensor[matches])
        return gt_labels, matched_boxes

    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """The losses, over the running number of positive anchors.

        Args:
            anchors: Anchors of each feature map.
            pred_logits: Per feature map (N, Ri, K).
            gt_labels: Per image, of :meth:`label_anchors`.
            pred_anchor_deltas: Per feature map (N, Ri, 4).
            gt_boxes: Per image, of :meth:`label_anchors`.

        Returns:
            ``loss_cls``, the focal loss of all anchors that are not ignored, and ``loss_box_reg`` of the positives.
        """
        labels = torch.stack(gt_labels)  # (N, R)
        valid = labels >= 0
        positive = valid & (labels != self.num_classes)
        count = positive.sum()
        get_event_storage().put_scalar("num_pos_anchors", count.item() / len(labels))
        self.loss_normalizer.mul_(_NORMALIZER_MOMENTUM).add_(count.clamp(min=1) * (1 - _NORMALIZER_MOMENTUM))

        logits = cat(pred_logits, dim=1)[valid]
        # One class of each positive; a negative has none. The background's column is cut off.
        targets = logits.new_zeros(len(logits), self.num_classes + 1).scatter_(1, labels[valid][:, None], 1)
        loss_cls = sigmoid_focal_loss(
            logits, targets[:, :-1], alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma, reduction="sum"
        )
        loss_box_reg = _dense_box_regression_loss(
            anchors,
            self.box2box_transform,
            pred_anchor_deltas,
            gt_boxes,
            positive,
            box_reg_loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        # A copy: the next step moves the buffer on, and with accumulated steps the backward pass comes after that.
        normalizer = self.loss_normalizer.clone()
        return {"loss_cls": loss_cls / normalizer, "loss_box_reg": loss_box_reg / normalizer}

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: tuple[list[Tensor], list[Tensor]]
    ) -> list[Instances]:
        """The detections of each image, best first."""
        logits, deltas = self._per_anchor(predictions)
        anchors = self.anchor_generator(features)
        return [
            self.inference_single_image(
                anchors, [x[index].sigmoid() for x in logits], [x[index] for x in deltas], image_size
            )
            for index, image_size in enumerate(images.image_sizes)
        ]

    def inference_single_image(
        self, anchors: list[Boxes], box_cls: list[Tensor], box_delta: list[Tensor], image_size: tuple[int, int]
    ) -> Instances:
        """Decodes the best scores of each map, then suppresses within each class.

        Args:
            anchors: Anchors of each feature map.
            box_cls: Per map scores (Ri, K).
            box_delta: Per map (Ri, 4).
            image_size: Height and width of the image.
        """
        boxes, scores, classes = [], [], []
        for level_anchors, level_scores, level_deltas in zip(anchors, box_cls, box_delta):
            anchor, category = (level_scores > self.test_score_thresh).nonzero(as_tuple=True)
            found = level_scores[anchor, category]
            best, order = found.topk(min(self.test_topk_candidates, len(found)))
            anchor = anchor[order]
            boxes.append(self.box2box_transform.apply_deltas(level_deltas[anchor], level_anchors.tensor[anchor]))
            scores.append(best)
            classes.append(category[order])
        result = Instances(image_size, pred_boxes=Boxes(cat(boxes)), scores=cat(scores), pred_classes=cat(classes))
        keep = batched_nms(result.pred_boxes.tensor, result.scores, result.pred_classes, self.test_nms_thresh)
        return result[keep[: self.max_detections_per_image]]
