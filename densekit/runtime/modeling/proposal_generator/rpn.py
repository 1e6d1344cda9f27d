"""Region proposal network: "Faster R-CNN" (arXiv:1506.01497), on one feature map or on a pyramid.

Shape shorthand: N images, L feature maps, A anchors per location, Hi, Wi size of the i-th map, Ri = Hi * Wi * A its
anchors, R their sum over the maps, B numbers per box. "Logits" are objectness scores before the sigmoid, "deltas" the
regression targets of :class:`~densekit.runtime.modeling.box_regression.Box2BoxTransform`. Boxes are xyxy in pixels of
the input image.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.runtime.config import CfgNode, configurable
from densekit.runtime.layers import Conv2d, ShapeSpec, cat
from densekit.runtime.modeling.anchor_generator import build_anchor_generator
from densekit.runtime.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from densekit.runtime.modeling.matcher import Matcher
from densekit.runtime.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from densekit.runtime.modeling.proposal_generator.proposal_utils import gather_rows, suppress_proposals, top_logits
from densekit.runtime.modeling.proposal_generator.sparse_grad import SparseGradConv2d
from densekit.runtime.modeling.sampling import subsample_labels
from densekit.runtime.structures import Boxes, ImageList, Instances, pairwise_iou
from densekit.runtime.utils.events import get_event_storage
from densekit.runtime.utils.memory import retry_if_cuda_oom
from densekit.runtime.utils.registry import Registry

RPN_HEAD_REGISTRY = Registry("RPN_HEAD")
RPN_HEAD_REGISTRY.__doc__ = """Called as ``obj(cfg, input_shape)`` with a ShapeSpec per feature map."""


def build_rpn_head(cfg: CfgNode, input_shape: list[ShapeSpec]) -> nn.Module:
    """Builds ``cfg.MODEL.RPN.HEAD_NAME`` for feature maps of these shapes."""
    return RPN_HEAD_REGISTRY.get(cfg.MODEL.RPN.HEAD_NAME)(cfg, input_shape)


@RPN_HEAD_REGISTRY.register()
class StandardRPNHead(nn.Module):
    """3x3 convolutions, then one 1x1 convolution for the logits and one for the deltas; shared by all feature maps.

    Args:
        in_channels: Channels of every feature map.
        num_anchors: Anchors per location.
        box_dim: Numbers per box.
        conv_dims: Output channels of each 3x3 convolution; -1 keeps the input's.

    Raises:
        ValueError: A number of channels is neither positive nor -1.
    """

    @configurable
    def __init__(
        self, *, in_channels: int, num_anchors: int, box_dim: int = 4, conv_dims: Sequence[int] = (-1,)
    ) -> None:
        super().__init__()
        if not conv_dims or any(dim != -1 and dim <= 0 for dim in conv_dims):
            raise ValueError(f"RPN conv_dims={list(conv_dims)} must be positive numbers of channels, or -1.")
        convs, channels = [], in_channels
        for dim in conv_dims:
            out_channels = channels if dim == -1 else dim
            convs.append(self._get_rpn_conv(channels, out_channels))
            channels = out_channels
        # A single convolution is `conv`, several are `conv.conv0`, ...: the names in published checkpoints.
        self.conv: nn.Module = convs[0]
        if len(convs) > 1:
            self.conv = nn.Sequential()
            for index, conv in enumerate(convs):
                self.conv.add_module(f"conv{index}", conv)
        self.objectness_logits = nn.Conv2d(channels, num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(channels, num_anchors * box_dim, kernel_size=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def _get_rpn_conv(self, in_channels: int, out_channels: int) -> Conv2d:
        return SparseGradConv2d(in_channels, out_channels, activation=nn.ReLU(inplace=True))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        anchors: Any = build_anchor_generator(cfg, input_shape)
        channels, per_location = {shape.channels for shape in input_shape}, set(anchors.num_anchors)
        if len(channels) != 1 or len(per_location) != 1:
            raise ValueError(
                "The RPN head is shared by all feature maps, so they need equal channels and anchors per location; got "
                f"channels {[shape.channels for shape in input_shape]} and anchors {anchors.num_anchors}."
            )
        return {
            "in_channels": channels.pop(),
            "num_anchors": per_location.pop(),
            "box_dim": anchors.box_dim,
            "conv_dims": cfg.MODEL.RPN.CONV_DIMS,
        }

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Returns logits (N, A, Hi, Wi) and deltas (N, A * B, Hi, Wi) of each feature map (N, C, Hi, Wi)."""
        logits, deltas = [], []
        for feature in features:
            hidden = self.conv(feature)
            logits.append(self.objectness_logits(hidden))
            deltas.append(self.anchor_deltas(hidden))
        return logits, deltas


@PROPOSAL_GENERATOR_REGISTRY.register()
class RPN(nn.Module):
    """Scores and refines anchors, and keeps the best as proposals.

    Args:
        in_features: Names of the feature maps to use.
        head: From the list of feature maps to logits and deltas, as :class:`StandardRPNHead`.
        anchor_generator: From the list of feature maps to anchors.
        anchor_matcher: Labels anchors by their overlap with the ground truth.
        box2box_transform: Meaning of the deltas.
        batch_size_per_image: Anchors per image in the loss.
        positive_fraction: Largest share of positives among them.
        pre_nms_topk: Proposals per feature map before suppression, in training and at test.
        post_nms_topk: Proposals per image after it, in training and at test.
        nms_thresh: IoU of the suppression.
        min_box_size: Proposals whose width or height is not larger, in pixels, are dropped.
        anchor_boundary_thresh: If not negative, anchors that leave the image by more pixels stay out of the loss.
        loss_weight: Weight of both losses, or a dict with ``loss_rpn_cls`` and ``loss_rpn_loc``.
        box_reg_loss_type: ``smooth_l1``, ``giou``, ``diou`` or ``ciou``.
        smooth_l1_beta: Where smooth L1 turns from square to linear.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        anchor_matcher: Matcher,
        box2box_transform: Box2BoxTransform,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        loss_weight: float | dict[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.rpn_head = head
        self.anchor_generator = anchor_generator
        self.anchor_matcher = anchor_matcher
        self.box2box_transform = box2box_transform
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        # By `self.training`.
        self.pre_nms_topk = dict(zip((True, False), pre_nms_topk))
        self.post_nms_topk = dict(zip((True, False), post_nms_topk))
        self.nms_thresh = nms_thresh
        self.min_box_size = float(min_box_size)
        self.anchor_boundary_thresh = anchor_boundary_thresh
        if not isinstance(loss_weight, dict):
            loss_weight = dict.fromkeys(("loss_rpn_cls", "loss_rpn_loc"), loss_weight)
        self.loss_weight = loss_weight
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        keys = cfg.MODEL.RPN
        shapes = [input_shape[name] for name in keys.IN_FEATURES]
        return {
            "in_features": keys.IN_FEATURES,
            "head": build_rpn_head(cfg, shapes),
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "anchor_matcher": Matcher(keys.IOU_THRESHOLDS, keys.IOU_LABELS, allow_low_quality_matches=True),
            "box2box_transform": Box2BoxTransform(weights=keys.BBOX_REG_WEIGHTS),
            "batch_size_per_image": keys.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": keys.POSITIVE_FRACTION,
            "pre_nms_topk": (keys.PRE_NMS_TOPK_TRAIN, keys.PRE_NMS_TOPK_TEST),
            "post_nms_topk": (keys.POST_NMS_TOPK_TRAIN, keys.POST_NMS_TOPK_TEST),
            "nms_thresh": keys.NMS_THRESH,
            "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
            "anchor_boundary_thresh": keys.BOUNDARY_THRESH,
            "loss_weight": {
                "loss_rpn_cls": keys.LOSS_WEIGHT,
                "loss_rpn_loc": keys.BBOX_REG_LOSS_WEIGHT * keys.LOSS_WEIGHT,
            },
            "box_reg_loss_type": keys.BBOX_REG_LOSS_TYPE,
            "smooth_l1_beta": keys.SMOOTH_L1_BETA,
        }

    def forward(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Proposes boxes and, in training, computes the losses.

        Args:
            images: The batch; only its ``image_sizes`` are read.
            features: Feature maps by name.
            gt_instances: Per image ``gt_boxes``; needed in training.

        Returns:
            Per image ``proposal_boxes`` and ``objectness_logits``, best first; and the losses, empty at test.

        Raises:
            ValueError: Ground truth is missing in training.
        """
        maps = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(maps)
        logit_maps, delta_maps = self.rpn_head(maps)
        box_dim = self.anchor_generator.box_dim
        # (N, A, Hi, Wi) -> (N, Ri) and (N, A * B, Hi, Wi) -> (N, Ri, B), in the order of the anchors
        logits = [x.permute(0, 2, 3, 1).flatten(1) for x in logit_maps]
        deltas = [x.permute(0, 2, 3, 1).reshape(len(x), -1, box_dim) for x in delta_maps]
        losses: dict[str, Tensor] = {}
        if self.training:
            if gt_instances is None:
                raise ValueError("The RPN needs ground truth in training; the inputs have no 'instances'.")
            gt_labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, gt_labels, deltas, gt_boxes)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Matches the anchors with the ground truth and draws the sample for the loss.

        Args:
            anchors: Anchors of each feature map.
            gt_instances: Per image ``gt_boxes``.

        Returns:
            Per image the labels (R,): 1 positive, 0 negative, -1 not in the sample; and the matched boxes (R, 4), which
            mean something at positives only.
        """
        all_anchors = Boxes.cat(anchors)
        gt_labels, matched_boxes = [], []
        for gt in gt_instances:
            gt_boxes = gt.gt_boxes
            quality = retry_if_cuda_oom(pairwise_iou)(gt_boxes, all_anchors)
            matches, labels = retry_if_cuda_oom(self.anchor_matcher)(quality)
            # After running out of memory the matching happens on the CPU.
            matches, labels = matches.to(gt_boxes.device), labels.to(gt_boxes.device)
            del quality
            if self.anchor_boundary_thresh >= 0:
                inside = all_anchors.inside_box(gt.image_size, self.anchor_boundary_thresh)
                labels.masked_fill_(~inside, -1)
            gt_labels.append(self._subsample_labels(labels))
            empty = len(gt_boxes) == 0
            matched_boxes.append(torch.zeros_like(all_anchors.tensor) if empty else gt_boxes.tensor[matches])
        return gt_labels, matched_boxes

    def _subsample_labels(self, label: Tensor) -> Tensor:
        """Keeps a random sample of the labels (R,) and sets the others to -1, in place."""
        positive, negative = subsample_labels(label, self.batch_size_per_image, self.positive_fraction, 0)
        return label.fill_(-1).index_fill_(0, positive, 1).index_fill_(0, negative, 0)

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """The weighted losses, over the size of the sample of the whole batch.

        Args:
            anchors: Anchors of each feature map.
            pred_objectness_logits: Per feature map (N, Ri).
            gt_labels: Per image, of :meth:`label_and_sample_anchors`.
            pred_anchor_deltas: Per feature map (N, Ri, B).
            gt_boxes: Per image, of :meth:`label_and_sample_anchors`.

        Returns:
            ``loss_rpn_cls`` (binary cross-entropy) and ``loss_rpn_loc``.
        """
        num_images = len(gt_labels)
        labels = torch.stack(gt_labels)  # (N, R)
        positive, sampled = labels == 1, labels >= 0
        num_positive, num_sampled = torch.stack((positive.sum(), sampled.sum())).tolist()
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", num_positive / num_images)
        storage.put_scalar("rpn/num_neg_anchors", (num_sampled - num_positive) / num_images)

        loc = _dense_box_regression_loss(
            anchors,
            self.box2box_transform,
            pred_anchor_deltas,
            gt_boxes,
            positive,
            box_reg_loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        logits = cat(pred_objectness_logits, dim=1)[sampled]
        cls = F.binary_cross_entropy_with_logits(logits, labels[sampled].to(torch.float32), reduction="sum")
        normalizer = self.batch_size_per_image * num_images
        losses = {"loss_rpn_cls": cls / normalizer, "loss_rpn_loc": loc / normalizer}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Decodes the best anchors of each feature map and suppresses duplicates; no gradient passes.

        Args:
            anchors: Anchors of each feature map.
            pred_objectness_logits: Per feature map (N, Ri).
            pred_anchor_deltas: Per feature map (N, Ri, B).
            image_sizes: Height and width of each image.

        Returns:
            Per image ``proposal_boxes`` and ``objectness_logits``, best first.
        """
        boxes, scores, levels = [], [], []
        for level, (level_anchors, logits, deltas) in enumerate(
            zip(anchors, pred_objectness_logits, pred_anchor_deltas)
        ):
            # Decode only what can survive: the best thousands of up to some hundred thousand anchors.
            top_scores, index = top_logits(logits, self.pre_nms_topk[self.training])
            top_anchors, top_deltas = level_anchors.tensor[index], gather_rows(deltas, index)
            decoded = self.box2box_transform.apply_deltas(top_deltas.flatten(0, 1), top_anchors.flatten(0, 1))
            boxes.append(decoded.view(top_anchors.shape))
            scores.append(top_scores)
            levels.append(torch.full_like(index[0], level))
        return suppress_proposals(
            cat(boxes, dim=1),
            cat(scores, dim=1),
            cat(levels),
            image_sizes,
            nms_thresh=self.nms_thresh,
            post_nms_topk=self.post_nms_topk[self.training],
            min_box_size=self.min_box_size,
            training=self.training,
        )
