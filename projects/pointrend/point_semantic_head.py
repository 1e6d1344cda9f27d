"""Semantic segmentation refined at points. PointRend, https://arxiv.org/abs/1912.08193, section 5.

Shapes: N images, C classes, H x W the coarse scores, P points.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.modeling import SEM_SEG_HEADS_REGISTRY
from densekit.layers.pixel_losses import mean_cross_entropy
from densekit.layers.points import point_sample, random_uncertain_points, uncertain_grid_points
from densekit.modeling.semantic_fpn import with_loss_keys
from densekit.modeling.semantic_head import pad_labels, scores_and_losses

from .point_head import build_point_head


def margin_uncertainty(logits: torch.Tensor) -> torch.Tensor:
    """The second best score minus the best, (N, C, ...) to (N, 1, ...): 0 where undecided, negative where certain."""
    best = logits.topk(2, dim=1).values
    return best[:, 1:] - best[:, :1]


@SEM_SEG_HEADS_REGISTRY.register()
class PointRendSemanticHead(nn.Module):
    """The scores of another head, refined at points (Detectron2's PointRendSemSegHead).

    Args:
        coarse_sem_seg_head: with ``layers(features)`` to scores (N, C, H, W) and ``losses(scores, labels)``.
        point_head: the network of one point.
        in_features: maps that points see.
        train_num_points: P in training.
        oversample: k of the sampling in training.
        importance: beta of it.
        stride: image pixels from one of the coarse scores to the next.
        subdivision_steps: how often the scores' size doubles in inference, before they grow to that of the images.
        subdivision_num_points: P in each step.
        ignore_value: label of pixels that stay out of the loss.
    """

    @configurable
    def __init__(
        self,
        *,
        coarse_sem_seg_head: nn.Module,
        point_head: nn.Module,
        in_features: Sequence[str],
        train_num_points: int,
        oversample: float,
        importance: float,
        stride: int,
        subdivision_steps: int,
        subdivision_num_points: int,
        ignore_value: int,
    ) -> None:
        super().__init__()
        self.coarse_sem_seg_head: Any = coarse_sem_seg_head
        self.point_head = point_head
        self.in_features = in_features
        self.train_num_points = train_num_points
        self.oversample = oversample
        self.importance = importance
        self.stride = stride
        self.subdivision_steps = subdivision_steps
        self.subdivision_num_points = subdivision_num_points
        self.ignore_value = ignore_value

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, Any]) -> dict[str, Any]:
        node, classes = cfg.MODEL.POINT_HEAD, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        if classes != node.NUM_CLASSES:
            raise ValueError(
                f"MODEL.POINT_HEAD.NUM_CLASSES is {node.NUM_CLASSES} and MODEL.SEM_SEG_HEAD.NUM_CLASSES is {classes}; "
                "set both to the number of classes of the data set."
            )
        if classes < 2:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {classes}; points are chosen by the margin between two classes: "
                "give the background a class of its own."
            )
        return {
            "coarse_sem_seg_head": SEM_SEG_HEADS_REGISTRY.get(with_loss_keys(node.COARSE_SEM_SEG_HEAD_NAME))(
                cfg, input_shape
            ),
            "point_head": build_point_head(cfg, input_shape, classes),
            "in_features": node.IN_FEATURES,
            "train_num_points": node.TRAIN_NUM_POINTS,
            "oversample": node.OVERSAMPLE_RATIO,
            "importance": node.IMPORTANCE_SAMPLE_RATIO,
            "stride": cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE,
            "subdivision_steps": node.SUBDIVISION_STEPS,
            "subdivision_num_points": node.SUBDIVISION_NUM_POINTS,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }

    def forward(
        self, features: Mapping[str, torch.Tensor], targets: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """Trains or predicts.

        Args:
            features: maps of the batch by name.
            targets: in training the labels of all pixels (N, height, width).

        Returns:
            In training None and the losses by name; else scores (N, C, H * stride, W * stride) and no losses.
        """
        if not self.training:
            return self._subdivide(features, self.coarse_sem_seg_head.layers(features)), {}
        if targets is None:
            raise ValueError("PointRendSemanticHead needs labels in training; the inputs have no 'sem_seg'.")
        coarse, losses = scores_and_losses(self.coarse_sem_seg_head, features, targets)
        return None, {**losses, "loss_sem_seg_point": self._point_loss(features, coarse, targets)}

    def _point_loss(
        self, features: Mapping[str, torch.Tensor], coarse: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        with torch.no_grad():
            points = random_uncertain_points(
                coarse,
                margin_uncertainty,
                self.train_num_points,
                oversample=self.oversample,
                importance=self.importance,
            )
            # Scores of a backbone that pads nothing reach beyond an image whose sides its strides do not divide.
            covered = [side * self.stride for side in coarse.shape[2:]]
            targets = pad_labels(targets, covered, self.ignore_value)
            labels = point_sample(targets[:, None].float(), points, mode="nearest")[:, 0].long()  # (N, P)
        scores = self._predict(features, coarse, points)
        return mean_cross_entropy(scores, labels, self.ignore_value)

    def _predict(
        self, features: Mapping[str, torch.Tensor], coarse: torch.Tensor, points: torch.Tensor
    ) -> torch.Tensor:
        """Scores (N, C, P) at points (N, P, 2) in [0, 1] of the images."""
        fine = torch.cat([point_sample(features[name], points) for name in self.in_features], dim=1)
        return self.point_head(fine.transpose(1, 2), points, coarse)

    def _subdivide(self, features: Mapping[str, torch.Tensor], coarse: torch.Tensor) -> torch.Tensor:
        scores = coarse
        for _ in range(self.subdivision_steps):
            scores = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=False)
            pixels, points = uncertain_grid_points(margin_uncertainty(scores), self.subdivision_num_points)
            anew = self._predict(features, coarse, points)
            pixels = pixels[:, None].expand(-1, scores.shape[1], -1)
            scores = scores.flatten(2).scatter(2, pixels, anew).view_as(scores)
        size = [side * self.stride for side in coarse.shape[2:]]
        if scores.shape[2:] == tuple(size):
            return scores
        # The image is cut out of the scores by its pixels, so they need its scale whatever the number of steps.
        return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
