"""Region heads with a MaskIoU head beside any mask head. Mask Scoring R-CNN, https://arxiv.org/abs/1903.00241.

Departures from the paper: the mask head may be any (its masks are brought to 28 x 28); proposals are not matched a
second time, so all foreground regions train the MaskIoU head.

Shapes: R regions of all images, Ri of image i, K classes, M x M mask pixels.
"""

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.modeling import ROI_HEADS_REGISTRY
from densekit.d2.modeling.poolers import ROIPooler
from densekit.d2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads, select_foreground_proposals
from densekit.d2.structures import Instances
from densekit.deploy.region_graphs import pooled
from densekit.modeling.mask_logits import check_gives_logits, concat_classes, forward_with_logits, select_classes

from .maskiou_head import MaskIoUHead, TargetClasses, mask_iou_loss
from .targets import ImageObjects, maskiou_targets


@ROI_HEADS_REGISTRY.register()
class MaskScoringROIHeads(StandardROIHeads):
    """:class:`StandardROIHeads` that also predict how good each mask is, as "mask_scores" of the detections.

    Detections keep their "scores" (of the class); "mask_scores" are these times the predicted overlap and rank the
    masks in the evaluation.

    Args:
        maskiou_head: like :class:`MaskIoUHead`.
        maskiou_pooler: of the regions' features for it; None if it takes those of the mask head.
        maskiou_targets: which classes' overlap is learned.
        maskiou_loss_weight: factor of its loss.
        **kwargs: see :class:`StandardROIHeads`.

    Raises:
        ValueError: unknown targets, or a mask head that does not give its logits.
    """

    @configurable
    def __init__(
        self,
        *,
        maskiou_head: nn.Module,
        maskiou_pooler: ROIPooler | None = None,
        maskiou_targets: TargetClasses = "selected",
        maskiou_loss_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if maskiou_targets not in get_args(TargetClasses):
            raise ValueError(
                f"MODEL.MASK_SCORING.TARGET is {maskiou_targets!r}, not one of {', '.join(get_args(TargetClasses))}."
            )
        check_gives_logits(self.mask_head)
        self.maskiou_head: Any = maskiou_head
        self.maskiou_pooler = maskiou_pooler
        self.maskiou_targets = maskiou_targets
        self.maskiou_loss_weight = maskiou_loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        """Reads ``MODEL.MASK_SCORING``; how regions are pooled is the mask head's, or the box head's if it has none."""
        if not cfg.MODEL.MASK_ON:
            raise ValueError(f"MODEL.ROI_HEADS.NAME {cfg.MODEL.ROI_HEADS.NAME} scores masks: set MODEL.MASK_ON True.")
        own, node, names = cfg.MODEL.MASK_SCORING, cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.ROI_HEADS.IN_FEATURES
        resolution = node.POOLER_RESOLUTION * (2 if own.INPUT == "high_res" else 1)
        pooler = None
        if not node.POOLER_TYPE or own.INPUT == "high_res":
            pooler = ROIPooler(
                output_size=resolution,
                scales=tuple(1.0 / input_shape[name].stride for name in names),
                sampling_ratio=node.POOLER_SAMPLING_RATIO,
                pooler_type=node.POOLER_TYPE or cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE,
            )
        options = super().from_config(cfg, input_shape)
        head = MaskIoUHead(
            in_channels=input_shape[names[0]].channels,
            resolution=resolution,
            num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            mask_channels=_mask_channels(cfg, options["mask_head"]),
            mask_input=own.INPUT,
            num_conv=own.NUM_CONV,
            conv_dim=own.CONV_DIM,
            fc_dim=own.FC_DIM,
        )
        return {
            **options,
            "maskiou_head": head,
            "maskiou_pooler": pooler,
            "maskiou_targets": own.TARGET,
            "maskiou_loss_weight": own.LOSS_WEIGHT,
        }

    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Also gives each region the objects of its image, where more is learned than the one that it matches."""
        sampled = super().label_and_sample_proposals(proposals, targets)
        if self.maskiou_targets != "selected":
            for x, truth in zip(sampled, targets):
                x.gt_image = ImageObjects(truth, torch.arange(len(x)))
        return sampled

    def _forward_mask(self, features: dict[str, torch.Tensor], instances: list[Instances]) -> Any:
        """The mask branch and the MaskIoU head: losses in training, masks and their scores in inference."""
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        boxes = [x.proposal_boxes if self.training else x.pred_boxes for x in instances]
        x: Any = {name: features[name] for name in self.mask_in_features}
        if self.mask_pooler is not None:
            x = self.mask_pooler(list(x.values()), boxes)
        result, logits = forward_with_logits(self.mask_head, x, instances)
        if self.maskiou_pooler is not None:
            x = self.maskiou_pooler([features[name] for name in self.box_in_features], boxes)
        classes = concat_classes(instances, "gt_classes" if self.training else "pred_classes")
        overlaps = self.maskiou_head(x, self._masks(logits, classes, instances))
        if self.training:
            result["loss_maskiou"] = self._loss(overlaps, logits.detach() > 0, instances)
        else:
            set_mask_scores(select_classes(overlaps, classes).split([len(x) for x in instances]), instances)
        return result

    def graph_mask_scores(
        self,
        features: dict[str, torch.Tensor],
        regions: torch.Tensor,
        logits: torch.Tensor,
        masks: torch.Tensor,
        found: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """The scores of an image's masks, for :class:`densekit.deploy.region_graphs.RegionGraph`."""
        boxes, scores, classes = found
        if self.maskiou_pooler is not None:
            regions = pooled(self.maskiou_pooler, [features[name] for name in self.box_in_features], boxes)
        shown = logits.sigmoid() if self.maskiou_head.mask_input == "all" else masks[:, None]
        return scores * self.maskiou_head(regions, shown).gather(1, classes[:, None])[:, 0]

    def _masks(self, logits: torch.Tensor, classes: torch.Tensor, instances: list[Instances]) -> torch.Tensor:
        """The masks that the MaskIoU head sees. In training their gradient goes back into the mask head."""
        if self.maskiou_head.mask_input == "all":
            return logits.sigmoid()
        if self.training:
            return select_classes(logits, classes)[:, None].sigmoid()
        return torch.cat([x.pred_masks for x in instances])

    def _loss(self, overlaps: torch.Tensor, masks: torch.Tensor, instances: list[Instances]) -> torch.Tensor:
        """The l2 loss of predicted overlaps (R, K), given the binary masks (R, C, M, M)."""
        per_image = zip(masks.split([len(x) for x in instances]), instances)
        targets = torch.cat([maskiou_targets(m, x, self.num_classes) for m, x in per_image])
        counted = torch.ones_like(targets, dtype=torch.bool) if self.maskiou_targets == "all" else targets > 0
        return mask_iou_loss(overlaps, targets, counted) * self.maskiou_loss_weight


@ROI_HEADS_REGISTRY.register()
class MaskScoringCascadeROIHeads(MaskScoringROIHeads, CascadeROIHeads):
    """:class:`MaskScoringROIHeads` behind the box heads of a cascade."""


def _mask_channels(cfg: CfgNode, mask_head: nn.Module) -> int:
    """Returns the number of logits per mask pixel; a head that differs from the host's has it in ``mask_channels``."""
    usual = 1 if cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES
    return getattr(mask_head, "mask_channels", usual)


def set_mask_scores(overlaps: Sequence[torch.Tensor], instances: Sequence[Instances]) -> None:
    """Ranks the masks of each image by the class score times the overlap (Ri,), as "mask_scores"."""
    for x, image_overlaps in zip(instances, overlaps):
        x.mask_scores = x.scores * image_overlaps
