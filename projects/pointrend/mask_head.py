"""Mask heads that render a mask point by point. PointRend, https://arxiv.org/abs/1912.08193, section 4.

In inference only the mask of each region's class is predicted, upsampled and subdivided; Detectron2's project carries
the masks of all classes along and selects at the end, with the same result.

Shapes: R regions of all images, K classes, C mask channels (K, or 1 if class-agnostic), P points, M x M a mask.
"""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import ROI_MASK_HEAD_REGISTRY
from densekit.d2.modeling.poolers import ROIPooler
from densekit.d2.modeling.roi_heads.mask_head import mask_rcnn_inference, mask_rcnn_loss
from densekit.d2.structures import Boxes, Instances
from densekit.layers.points import (
    random_uncertain_points,
    regular_grid,
    sample_in_boxes,
    uncertain_grid_points,
)
from densekit.modeling.mask_logits import concat_classes, select_classes

from .coarse_head import CoarseHead
from .losses import point_labels, point_loss
from .point_head import build_point_head

Features = Mapping[str, torch.Tensor]
Losses = dict[str, torch.Tensor]


class PointMaskHead(nn.Module):
    """Base of the two mask heads: maps at points, and subdivision in inference.

    A subclass says what is predicted once for a whole region (its representation), and how points see that.

    Args:
        point_head: the network of one point; None to stop at the coarse mask.
        point_in_features: maps that points see.
        region_in_features: maps that the head of whole regions sees.
        region_resolution: side of the grid on which it sees them.
        feature_scales: of every map, its pixels per image pixel.
        train_num_points: P in training.
        start_resolution: M that subdivision starts from.
        subdivision_steps: how often M doubles.
        subdivision_num_points: P in each step.
        mask_channels: C, of the logits that :meth:`forward_with_logits` hands out.
    """

    def __init__(
        self,
        *,
        point_head: Any,
        point_in_features: Sequence[str],
        region_in_features: Sequence[str],
        region_resolution: int,
        feature_scales: Mapping[str, float],
        train_num_points: int,
        start_resolution: int,
        subdivision_steps: int,
        subdivision_num_points: int,
        mask_channels: int,
    ) -> None:
        super().__init__()
        self.point_head = point_head
        self.point_in_features = point_in_features
        self.region_in_features = region_in_features
        self.region_resolution = region_resolution
        self.feature_scales = dict(feature_scales)
        self.train_num_points = train_num_points
        # A step that would predict every point of the finer grid anew starts from that grid instead.
        while 4 * start_resolution**2 <= subdivision_num_points and subdivision_steps > 0:
            start_resolution, subdivision_steps = 2 * start_resolution, subdivision_steps - 1
        self.start_resolution = start_resolution
        self.subdivision_steps = subdivision_steps
        self.subdivision_num_points = subdivision_num_points
        self.mask_channels = mask_channels

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, Any]) -> dict[str, Any]:
        """Reads the options of both mask heads; the subclass adds its point head."""
        node, mask_node = cfg.MODEL.POINT_HEAD, cfg.MODEL.ROI_MASK_HEAD
        if not isinstance(input_shape, Mapping):
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.POOLER_TYPE is {mask_node.POOLER_TYPE!r}; {mask_node.NAME} takes whole maps, so "
                'set it to "".'
            )
        if node.NUM_CLASSES != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
            raise ValueError(
                f"MODEL.POINT_HEAD.NUM_CLASSES is {node.NUM_CLASSES} and MODEL.ROI_HEADS.NUM_CLASSES is "
                f"{cfg.MODEL.ROI_HEADS.NUM_CLASSES}; set both to the number of classes of the data set."
            )
        return {
            "point_in_features": node.IN_FEATURES,
            "region_in_features": mask_node.IN_FEATURES,
            "region_resolution": mask_node.POOLER_RESOLUTION,
            "feature_scales": {name: 1.0 / shape.stride for name, shape in input_shape.items()},
            "train_num_points": node.TRAIN_NUM_POINTS,
            "start_resolution": mask_node.OUTPUT_SIDE_RESOLUTION,
            "subdivision_steps": node.SUBDIVISION_STEPS,
            "subdivision_num_points": node.SUBDIVISION_NUM_POINTS,
            "mask_channels": 1 if node.CLS_AGNOSTIC_MASK else node.NUM_CLASSES,
        }

    def forward(self, features: Features, instances: list[Instances]) -> Any:
        """The losses in training; in inference the same instances with "pred_masks".

        Args:
            features: maps of the batch by name.
            instances: foreground proposals with ground truth in training, detections in inference.
        """
        representation = self.represent(features, self._boxes(instances))
        return self._finish(features, representation, instances)

    def forward_with_logits(self, features: Features, instances: list[Instances]) -> tuple[Any, torch.Tensor]:
        """:meth:`forward`, and logits (R, C, M, M) of all classes on the grid that subdivision starts from."""
        boxes = self._boxes(instances)
        representation = self.represent(features, boxes)
        logits = self.grid_logits(features, representation, boxes)
        return self._finish(features, representation, instances), logits

    def represent(self, features: Features, boxes: list[Boxes]) -> torch.Tensor:
        """Predicts once for a whole region: the coarse mask (R, K, M, M), or its parameters."""
        raise NotImplementedError

    def point_logits(
        self, fine: torch.Tensor, points: torch.Tensor, representation: torch.Tensor, classes: torch.Tensor | None
    ) -> torch.Tensor:
        """Logits at points (R, P, 2) of maps' values there (R, P, F): as :meth:`predict_points`."""
        raise NotImplementedError

    def losses(self, features: Features, representation: torch.Tensor, instances: list[Instances]) -> Losses:
        """The losses by name."""
        raise NotImplementedError

    def predict_points(
        self,
        features: Features,
        representation: torch.Tensor,
        boxes: list[Boxes],
        points: torch.Tensor,
        classes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits at points (R, P, 2) in [0, 1] of the boxes: (R, C, P), or (R, 1, P) if there are classes (R,)."""
        fine = self._values(features, self.point_in_features, boxes, points)
        return self.point_logits(fine, points, representation, classes)

    def grid_logits(
        self, features: Features, representation: torch.Tensor, boxes: list[Boxes], classes: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits on the grid that subdivision starts from, (R, C, M, M), or (R, 1, M, M) if there are classes."""
        if self.point_head is None:
            return representation if classes is None else select_classes(representation, classes)[:, None]
        grid = regular_grid(len(representation), self.start_resolution, representation.device)
        logits = self.predict_points(features, representation, boxes, grid, classes)
        return logits.unflatten(2, (self.start_resolution, self.start_resolution))

    def subdivide(self, features: Features, representation: torch.Tensor, instances: list[Instances]) -> torch.Tensor:
        """Masks (R, 1, M, M) of the predicted classes: doubled, and predicted anew where uncertain (section 3.1)."""
        boxes, classes = self._boxes(instances), concat_classes(instances, "pred_classes")
        logits = self.grid_logits(features, representation, boxes, classes)
        if len(classes) == 0 or self.point_head is None:
            return logits
        for _ in range(self.subdivision_steps):
            logits = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
            cells, points = uncertain_grid_points(-logits.abs(), self.subdivision_num_points)
            anew = self.predict_points(features, representation, boxes, points, classes)
            logits = logits.flatten(2).scatter(2, cells[:, None], anew).view_as(logits)
        return logits

    def _boxes(self, instances: list[Instances]) -> list[Boxes]:
        return [x.proposal_boxes if self.training else x.pred_boxes for x in instances]

    def _finish(self, features: Features, representation: torch.Tensor, instances: list[Instances]) -> Any:
        if self.training:
            return self.losses(features, representation, instances)
        mask_rcnn_inference(self.subdivide(features, representation, instances), instances)
        return instances

    def _values(
        self, features: Features, names: Sequence[str], boxes: list[Boxes], points: torch.Tensor
    ) -> torch.Tensor:
        scales = [self.feature_scales[name] for name in names]
        return sample_in_boxes([features[name] for name in names], scales, [b.tensor for b in boxes], points)

    def _regions(self, features: Features, boxes: list[Boxes]) -> torch.Tensor:
        """Maps on a grid of points, as RoIAlign with one sample a cell, (R, channels, side, side)."""
        side = self.region_resolution
        grid = regular_grid(sum(len(b) for b in boxes), side, boxes[0].device)
        values = self._values(features, self.region_in_features, boxes, grid)  # (R, side * side, channels)
        return values.unflatten(1, (side, side)).permute(0, 3, 1, 2)


@ROI_MASK_HEAD_REGISTRY.register()
class PointRendHead(PointMaskHead):
    """A coarse mask, refined at points. Detectron2's PointRendMaskHead, for any coarse head.

    Args:
        coarse_head: from regions to logits (R, K, M, M); called by its ``layers`` where there is a pooler.
        coarse_pooler: of its regions; None for a grid of points on region_in_features.
        oversample: k of the sampling in training.
        importance: beta of it.
        **kwargs: see :class:`PointMaskHead`.
    """

    @configurable
    def __init__(
        self,
        *,
        coarse_head: nn.Module,
        coarse_pooler: ROIPooler | None = None,
        oversample: float = 3,
        importance: float = 0.75,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.coarse_head: Any = coarse_head
        self.coarse_pooler = coarse_pooler
        self.oversample = oversample
        self.importance = importance

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, Any]) -> dict[str, Any]:
        options = super().from_config(cfg, input_shape)
        node, mask_node = cfg.MODEL.POINT_HEAD, cfg.MODEL.ROI_MASK_HEAD
        classes, side = cfg.MODEL.ROI_HEADS.NUM_CLASSES, mask_node.OUTPUT_SIDE_RESOLUTION
        if node.COARSE_MASK_HEAD_NAME:
            options |= _named_coarse_head(cfg, input_shape)
            options["region_in_features"] = cfg.MODEL.ROI_HEADS.IN_FEATURES
            classes = 1 if mask_node.CLS_AGNOSTIC_MASK else classes
        else:
            options["coarse_head"] = _light_head(cfg, input_shape, (classes, side, side))
        if not mask_node.POINT_HEAD_ON:
            options["mask_channels"] = classes
        return {
            **options,
            "point_head": build_point_head(cfg, input_shape, classes) if mask_node.POINT_HEAD_ON else None,
            "oversample": node.OVERSAMPLE_RATIO,
            "importance": node.IMPORTANCE_SAMPLE_RATIO,
        }

    def represent(self, features: Features, boxes: list[Boxes]) -> torch.Tensor:
        if self.coarse_pooler is None:
            return self.coarse_head(self._regions(features, boxes))
        return self.coarse_head.layers(self.coarse_pooler([features[name] for name in self.region_in_features], boxes))

    def point_logits(
        self, fine: torch.Tensor, points: torch.Tensor, representation: torch.Tensor, classes: torch.Tensor | None
    ) -> torch.Tensor:
        return self.point_head(fine, points, representation, classes)

    def losses(self, features: Features, representation: torch.Tensor, instances: list[Instances]) -> Losses:
        """The loss of the coarse mask, and that of points where it is uncertain."""
        losses = {"loss_mask": mask_rcnn_loss(representation, instances)}
        if self.point_head is None:
            return losses
        classes = concat_classes(instances, "gt_classes")
        with torch.no_grad():
            points = random_uncertain_points(
                representation,
                lambda logits: -select_classes(logits, classes)[:, None].abs(),
                self.train_num_points,
                oversample=self.oversample,
                importance=self.importance,
            )
        logits = self.predict_points(features, representation, self._boxes(instances), points)
        losses["loss_mask_point"] = point_loss(logits, classes, point_labels(instances, points))
        return losses


@ROI_MASK_HEAD_REGISTRY.register()
class ImplicitPointRendHead(PointMaskHead):
    """Predicts for every region the parameters of its own point head (Detectron2's ImplicitPointRendMaskHead).

    Args:
        parameter_head: from regions to parameters (R, point_head.num_params).
        l2_weight: factor of the parameters' mean square.
        **kwargs: see :class:`PointMaskHead`.
    """

    @configurable
    def __init__(self, *, parameter_head: nn.Module, l2_weight: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parameter_head = parameter_head
        self.l2_weight = l2_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, Any]) -> dict[str, Any]:
        options = super().from_config(cfg, input_shape)
        side = isqrt(options["subdivision_num_points"])
        if side**2 != options["subdivision_num_points"]:
            raise ValueError(
                f"MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS is {options['subdivision_num_points']}; implicit PointRend "
                f"starts from a square grid of so many points: {side**2} or {(side + 1) ** 2} would do."
            )
        point_head = build_point_head(cfg, input_shape, 0)
        return {
            **options,
            "start_resolution": side,
            "point_head": point_head,
            "parameter_head": _light_head(cfg, input_shape, (point_head.num_params,)),
            "l2_weight": cfg.MODEL.IMPLICIT_POINTREND.PARAMS_L2_REGULARIZER,
        }

    def represent(self, features: Features, boxes: list[Boxes]) -> torch.Tensor:
        return self.parameter_head(self._regions(features, boxes))

    def point_logits(
        self, fine: torch.Tensor, points: torch.Tensor, representation: torch.Tensor, classes: torch.Tensor | None
    ) -> torch.Tensor:
        return self.point_head(fine, points, representation, classes)

    def losses(self, features: Features, representation: torch.Tensor, instances: list[Instances]) -> Losses:
        """The loss at uniform points, and a small penalty on large parameters."""
        classes = concat_classes(instances, "gt_classes")
        points = torch.rand(len(classes), self.train_num_points, 2, device=representation.device)
        logits = self.predict_points(features, representation, self._boxes(instances), points)
        penalty = representation.square().sum() / max(representation.numel(), 1)
        return {
            "loss_l2": self.l2_weight * penalty,
            "loss_mask_point": point_loss(logits, classes, point_labels(instances, points)),
        }


def _light_head(cfg: CfgNode, input_shape: Mapping[str, Any], output_shape: Sequence[int]) -> CoarseHead:
    node = cfg.MODEL.ROI_MASK_HEAD
    return CoarseHead(
        in_channels=sum(input_shape[name].channels for name in node.IN_FEATURES),
        resolution=node.POOLER_RESOLUTION,
        conv_dim=node.CONV_DIM,
        fc_dims=[node.FC_DIM] * node.NUM_FC,
        output_shape=output_shape,
    )


def _named_coarse_head(cfg: CfgNode, input_shape: Mapping[str, Any]) -> dict[str, Any]:
    """The mask head ``MODEL.POINT_HEAD.COARSE_MASK_HEAD_NAME``, and a pooler like the box head's for it."""
    node, names = cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.ROI_HEADS.IN_FEATURES
    side = node.POOLER_RESOLUTION
    shape = ShapeSpec(channels=input_shape[names[0]].channels, height=side, width=side)
    head = ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.POINT_HEAD.COARSE_MASK_HEAD_NAME)(cfg, shape)
    if not hasattr(head, "layers"):
        raise ValueError(
            f"MODEL.POINT_HEAD.COARSE_MASK_HEAD_NAME is {cfg.MODEL.POINT_HEAD.COARSE_MASK_HEAD_NAME}, which has no "
            "method layers() that gives its logits, as heads below BaseMaskRCNNHead have."
        )
    pooler = ROIPooler(
        output_size=side,
        scales=tuple(1.0 / input_shape[name].stride for name in names),
        sampling_ratio=node.POOLER_SAMPLING_RATIO,
        pooler_type=cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE,
    )
    return {"coarse_head": head, "coarse_pooler": pooler}
