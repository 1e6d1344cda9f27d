"""A sequence of box heads, each trained on better boxes. Cascade R-CNN, https://arxiv.org/abs/1712.00726.

Shapes: N images, Ri proposals of image i, K foreground classes; label K is background.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from densekit.runtime.config import CfgNode, configurable
from densekit.runtime.layers import ShapeSpec
from densekit.runtime.modeling.box_regression import Box2BoxTransform
from densekit.runtime.modeling.matcher import Matcher
from densekit.runtime.modeling.poolers import ROIPooler
from densekit.runtime.modeling.roi_heads.box_head import build_box_head
from densekit.runtime.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, Predictions, fast_rcnn_inference
from densekit.runtime.modeling.roi_heads.roi_heads import (
    ROI_HEADS_REGISTRY,
    Features,
    Losses,
    StandardROIHeads,
    build_pooler,
    pooled_shape,
    training_targets,
)
from densekit.runtime.structures import Boxes, ImageList, Instances, pairwise_iou
from densekit.runtime.utils.events import get_event_storage


@ROI_HEADS_REGISTRY.register()
class CascadeROIHeads(StandardROIHeads):
    """Box heads in a row: each refines the boxes of the one before and is trained at its own IoU threshold.

    Args:
        box_in_features: feature maps of the box heads.
        box_pooler: their pooler.
        box_heads: one per stage.
        box_predictors: one per stage, class-agnostic.
        proposal_matchers: one per stage; the first matches the proposals, the others the refined boxes.
        **kwargs: see :class:`StandardROIHeads`.

    Raises:
        ValueError: if the three lists differ in length.
    """

    @configurable
    def __init__(
        self,
        *,
        box_in_features: Sequence[str],
        box_pooler: ROIPooler,
        box_heads: Sequence[nn.Module],
        box_predictors: Sequence[nn.Module],
        proposal_matchers: Sequence[Matcher],
        **kwargs: Any,
    ) -> None:
        stages = len(box_heads)
        if len(box_predictors) != stages or len(proposal_matchers) != stages:
            raise ValueError(
                f"a cascade needs as many of each: {stages} heads, {len(box_predictors)} predictors, "
                f"{len(proposal_matchers)} matchers"
            )
        super().__init__(
            box_in_features=box_in_features,
            box_pooler=box_pooler,
            box_head=nn.ModuleList(box_heads),
            box_predictor=nn.ModuleList(box_predictors),
            proposal_matcher=proposal_matchers[0],
            **kwargs,
        )
        self.num_cascade_stages = stages
        self.proposal_matchers = proposal_matchers

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:  # type: ignore[override]
        ret = super().from_config(cfg, input_shape)
        del ret["proposal_matcher"]  # the first of proposal_matchers
        return ret

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        names, node, cascade = cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_BOX_CASCADE_HEAD
        if not node.CLS_AGNOSTIC_BBOX_REG:
            raise ValueError(
                "CascadeROIHeads regresses one box per proposal: set MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"
            )
        if (
            len(cascade.BBOX_REG_WEIGHTS) != len(cascade.IOUS)
            or cascade.IOUS[0] != cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS[0]
        ):
            raise ValueError(
                f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS is {cascade.IOUS}: it needs one value per BBOX_REG_WEIGHTS "
                f"({len(cascade.BBOX_REG_WEIGHTS)}), the first equal to MODEL.ROI_HEADS.IOU_THRESHOLDS[0] "
                f"({cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS[0]})"
            )
        shape = pooled_shape(node, input_shape, names)
        heads = [build_box_head(cfg, shape) for _ in cascade.IOUS]
        predictors = [
            FastRCNNOutputLayers(cfg, head.output_shape, box2box_transform=Box2BoxTransform(weights=weights))
            for head, weights in zip(heads, cascade.BBOX_REG_WEIGHTS)
        ]
        return {
            "box_in_features": names,
            "box_pooler": build_pooler(node, input_shape, names),
            "box_heads": heads,
            "box_predictors": predictors,
            "proposal_matchers": [Matcher([iou], [0, 1], allow_low_quality_matches=False) for iou in cascade.IOUS],
        }

    def forward(
        self, images: ImageList, features: Features, proposals: list[Instances], targets: list[Instances] | None = None
    ) -> tuple[list[Instances], Losses]:
        if not self.training:
            return self.forward_with_given_boxes(features, self._forward_box(features, proposals)), {}
        targets = training_targets(targets)
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses = self._forward_box(features, proposals, targets)  # later stages match their boxes anew
        losses.update(self._forward_mask(features, proposals))
        losses.update(self._forward_keypoint(features, proposals))
        return proposals, losses

    def _forward_box(
        self, features: Features, proposals: list[Instances], targets: list[Instances] | None = None
    ) -> Any:
        """All stages: losses "..._stage0", "..._stage1" ... in training, detections in inference."""
        maps = [features[name] for name in self.box_in_features]
        sizes = [p.image_size for p in proposals]
        outputs: list[tuple[Any, Predictions, list[Instances]]] = []
        for stage, predictor in enumerate(self.box_predictor):
            if stage > 0:
                previous, predictions, _ = outputs[-1]
                proposals = self._create_proposals_from_boxes(previous.predict_boxes(predictions, proposals), sizes)
                if self.training:
                    proposals = self._match_and_label_boxes(proposals, stage, targets or [])
            outputs.append((predictor, self._run_stage(maps, proposals, stage), proposals))
        return self._losses(outputs) if self.training else self._detections(outputs, sizes)

    def _losses(self, outputs: list[tuple[Any, Predictions, list[Instances]]]) -> Losses:
        losses = {}
        for stage, (predictor, predictions, proposals) in enumerate(outputs):
            with get_event_storage().name_scope(f"stage{stage}"):
                stage_losses = predictor.losses(predictions, proposals)
            losses.update({f"{name}_stage{stage}": loss for name, loss in stage_losses.items()})
        return losses

    def _detections(
        self, outputs: list[tuple[Any, Predictions, list[Instances]]], sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """The last stage's boxes with class probabilities averaged over all stages."""
        per_stage = [predictor.predict_probs(predictions, proposals) for predictor, predictions, proposals in outputs]
        scores = [sum(image[1:], start=image[0]) * (1.0 / len(outputs)) for image in zip(*per_stage)]
        last, predictions, proposals = outputs[-1]
        detections, _ = fast_rcnn_inference(
            last.predict_boxes(predictions, proposals),
            scores,
            sizes,
            last.test_score_thresh,
            last.test_nms_thresh,
            last.test_topk_per_image,
        )
        return detections

    @torch.no_grad()
    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        """Sets "gt_classes" and "gt_boxes" of a stage's proposals; all of them train, none are sampled."""
        foregrounds = []
        for image, truth in zip(proposals, targets):
            iou = pairwise_iou(truth.gt_boxes, image.proposal_boxes)
            matched_idxs, labels = self.proposal_matchers[stage](iou)
            image.gt_classes = self._label_proposals(matched_idxs, labels, truth.gt_classes)
            # Without ground truth any box does: background has no box loss.
            image.gt_boxes = truth.gt_boxes[matched_idxs] if len(truth) > 0 else image.proposal_boxes
            foregrounds.append((labels == 1).sum())
        num_fg = torch.stack(foregrounds).sum().item() / len(proposals)
        storage = get_event_storage()
        storage.put_scalar(f"stage{stage}/roi_head/num_fg_samples", num_fg)
        storage.put_scalar(f"stage{stage}/roi_head/num_bg_samples", sum(map(len, proposals)) / len(proposals) - num_fg)
        return proposals

    def _run_stage(self, features: list[torch.Tensor], proposals: list[Instances], stage: int) -> Predictions:
        """Class logits and deltas of one stage."""
        regions = self.box_pooler(features, [p.proposal_boxes for p in proposals])
        if self.training and regions.requires_grad:
            # The stages' losses are added. The features must not see a larger gradient for that, the heads may.
            regions.register_hook(lambda grad: grad / self.num_cascade_stages)
        return self.box_predictor[stage](self.box_head[stage](regions))  # type: ignore[index]

    def _create_proposals_from_boxes(
        self, boxes: Sequence[torch.Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """Proposals of the next stage: boxes clipped to the image, without gradients.

        Boxes without area leave in training; in inference all stay, since the scores of the stages are averaged row
        by row.
        """
        proposals = []
        for tensor, size in zip(boxes, image_sizes):
            refined = Boxes(tensor.detach())
            refined.clip(size)
            if self.training:
                refined = refined[refined.nonempty()]
            image = Instances(size)
            image.proposal_boxes = refined
            proposals.append(image)
        return proposals
