"""Per-region computation: sampling of proposals for training, and the heads on pooled features.

Shapes: N images, Ri proposals and Gi ground-truth objects of image i, K foreground classes; label K is background and
-1 is ignored. Boxes are xyxy in input-image pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from densekit.runtime.config import CfgNode, configurable
from densekit.runtime.layers import ShapeSpec
from densekit.runtime.modeling.backbone.resnet import BottleneckBlock, ResNet
from densekit.runtime.modeling.matcher import Matcher
from densekit.runtime.modeling.poolers import ROIPooler
from densekit.runtime.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from densekit.runtime.modeling.roi_heads.box_head import build_box_head
from densekit.runtime.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from densekit.runtime.modeling.roi_heads.keypoint_head import build_keypoint_head
from densekit.runtime.modeling.roi_heads.mask_head import build_mask_head
from densekit.runtime.modeling.sampling import subsample_labels
from densekit.runtime.structures import Boxes, ImageList, Instances, pairwise_iou
from densekit.runtime.utils.events import get_event_storage
from densekit.runtime.utils.registry import Registry

Features = dict[str, torch.Tensor]
Losses = dict[str, torch.Tensor]

ROI_HEADS_REGISTRY = Registry("ROI_HEADS")
ROI_HEADS_REGISTRY.__doc__ = """
Region heads. An entry is called as ``entry(cfg, input_shape)`` with the ShapeSpec of each feature map by name and
returns a module like :class:`ROIHeads`.
"""


def build_roi_heads(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """The region heads named by ``MODEL.ROI_HEADS.NAME``."""
    return ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)(cfg, input_shape)


def select_foreground_proposals(
    proposals: Sequence[Instances], bg_label: int
) -> tuple[list[Instances], list[torch.Tensor]]:
    """The proposals that were matched with an object.

    Args:
        proposals: per image, with "gt_classes".
        bg_label: K; this label and -1 are left out.

    Returns:
        The selected proposals of each image, and the boolean mask (Ri,) that selected them.
    """
    masks = [(p.gt_classes != -1) & (p.gt_classes != bg_label) for p in proposals]
    return [p[mask.nonzero(as_tuple=True)[0]] for p, mask in zip(proposals, masks)], masks


def select_proposals_with_visible_keypoints(proposals: Sequence[Instances]) -> list[Instances]:
    """The proposals with at least one visible keypoint inside their box, edges included.

    Args:
        proposals: per image foreground proposals, with "proposal_boxes" and "gt_keypoints".
    """
    kept = []
    for p in proposals:
        if len(p) > 0:  # an image without objects has no "gt_keypoints"
            x, y, visibility = p.gt_keypoints.tensor.unbind(dim=2)  # (Ri, number of keypoints) each
            x0, y0, x1, y1 = p.proposal_boxes.tensor[:, :, None].unbind(dim=1)
            inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
            p = p[(inside & (visibility >= 1)).any(dim=1).nonzero(as_tuple=True)[0]]
        kept.append(p)
    counts = [len(after) for after, before in zip(kept, proposals) if len(before) > 0]
    get_event_storage().put_scalar("keypoint_head/num_fg_samples", sum(counts) / max(len(counts), 1))
    return kept


def build_pooler(node: CfgNode, input_shape: Mapping[str, Any], in_features: Sequence[str]) -> ROIPooler:
    """The pooler that a head's config node describes, over the named feature maps."""
    return ROIPooler(
        output_size=node.POOLER_RESOLUTION,
        scales=tuple(1.0 / input_shape[name].stride for name in in_features),
        sampling_ratio=node.POOLER_SAMPLING_RATIO,
        pooler_type=node.POOLER_TYPE,
    )


def pooled_shape(node: CfgNode, input_shape: dict[str, ShapeSpec], in_features: Sequence[str]) -> ShapeSpec:
    """The shape of a region pooled as a head's config node describes.

    Raises:
        ValueError: if the feature maps differ in channels, since one head serves all of them.
    """
    channels = {name: input_shape[name].channels for name in in_features}
    if len(set(channels.values())) != 1:
        raise ValueError(f"feature maps of MODEL.ROI_HEADS.IN_FEATURES need equal channels, got {channels}")
    return ShapeSpec(channels=channels[in_features[0]], height=node.POOLER_RESOLUTION, width=node.POOLER_RESOLUTION)


class ROIHeads(nn.Module):
    """Base of all region heads: matches proposals with ground truth and samples them for training.

    Args:
        num_classes: K.
        batch_size_per_image: proposals sampled per image.
        positive_fraction: the largest share of foreground among them.
        proposal_matcher: from an IoU matrix to matches and labels.
        proposal_append_gt: whether ground-truth boxes join the proposals, which gives the second stage positive
            examples while the first is still poor.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        batch_size_per_image: int,
        positive_fraction: float,
        proposal_matcher: Matcher,
        proposal_append_gt: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.proposal_matcher = proposal_matcher
        self.proposal_append_gt = proposal_append_gt

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.ROI_HEADS
        return {
            "num_classes": node.NUM_CLASSES,
            "batch_size_per_image": node.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": node.POSITIVE_FRACTION,
            "proposal_matcher": Matcher(node.IOU_THRESHOLDS, node.IOU_LABELS, allow_low_quality_matches=False),
            "proposal_append_gt": node.PROPOSAL_APPEND_GT,
        }

    def _label_proposals(
        self, matched_idxs: torch.Tensor, matched_labels: torch.Tensor, gt_classes: torch.Tensor
    ) -> torch.Tensor:
        """Labels (Ri,) in [-1, K] from the matcher's index and label of each proposal and the objects' classes."""
        if len(gt_classes) == 0:
            return torch.full_like(matched_idxs, self.num_classes)
        classes = gt_classes[matched_idxs]
        classes[matched_labels == 0] = self.num_classes
        classes[matched_labels == -1] = -1
        return classes

    def _sample_proposals(
        self, matched_idxs: torch.Tensor, matched_labels: torch.Tensor, gt_classes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws foreground and background proposals.

        Args:
            matched_idxs: (Ri,), index in [0, Gi) of the best object.
            matched_labels: (Ri,), the matcher's label: 1 matched, 0 not, -1 ignored.
            gt_classes: (Gi,).

        Returns:
            Indices in [0, Ri), foreground first, and the label in [0, K] of each.
        """
        classes = self._label_proposals(matched_idxs, matched_labels, gt_classes)
        sampled = torch.cat(
            subsample_labels(classes, self.batch_size_per_image, self.positive_fraction, self.num_classes)
        )
        return sampled, classes[sampled]

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Matches proposals with ground truth and draws those that train the heads.

        Args:
            proposals: per image, with "proposal_boxes" and "objectness_logits".
            targets: per image, with "gt_boxes", "gt_classes" and any other "gt_*".

        Returns:
            Per image the sampled proposals with "gt_classes" and, if the image has objects, each other "gt_*" field of
            the matched object (arbitrary for background).
        """
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        labelled, backgrounds = [], []
        for image, truth in zip(proposals, targets):
            iou = pairwise_iou(truth.gt_boxes, image.proposal_boxes)  # (Gi, Ri)
            matched_idxs, matched_labels = self.proposal_matcher(iou)
            sampled, classes = self._sample_proposals(matched_idxs, matched_labels, truth.gt_classes)
            image = image[sampled]
            image.gt_classes = classes
            if len(truth) > 0:
                owner = matched_idxs[sampled]
                for name, value in truth.get_fields().items():
                    if name.startswith("gt_") and not image.has(name):
                        image.set(name, value[owner])
            labelled.append(image)
            backgrounds.append((classes == self.num_classes).sum())
        num_bg = torch.stack(backgrounds).sum().item() / len(labelled)
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", sum(map(len, labelled)) / len(labelled) - num_bg)
        storage.put_scalar("roi_head/num_bg_samples", num_bg)
        return labelled

    def forward(
        self, images: ImageList, features: Features, proposals: list[Instances], targets: list[Instances] | None = None
    ) -> tuple[list[Instances], Losses]:
        """Detections in inference, losses in training.

        Args:
            images: the batch.
            features: feature maps (N, channels, H, W) by name.
            proposals: per image, with "proposal_boxes" and "objectness_logits".
            targets: per image ground truth in training: "gt_boxes", "gt_classes", and "gt_masks" and "gt_keypoints"
                for the heads that need them.

        Returns:
            In inference the detections of each image and no losses; in training the losses by name.
        """
        raise NotImplementedError


def _init_branch(
    name: str, build: Callable[..., nn.Module], cfg: CfgNode, node: CfgNode, input_shape: dict[str, ShapeSpec]
) -> dict[str, Any]:
    """Arguments "<name>_in_features", "..._pooler", "..._head" of :class:`StandardROIHeads` from a head's node."""
    names, pooled = cfg.MODEL.ROI_HEADS.IN_FEATURES, bool(node.POOLER_TYPE)
    shape = pooled_shape(node, input_shape, names) if pooled else {key: input_shape[key] for key in names}
    return {
        f"{name}_in_features": names,
        f"{name}_pooler": build_pooler(node, input_shape, names) if pooled else None,
        f"{name}_head": build(cfg, shape),
    }


def training_targets(targets: list[Instances] | None) -> list[Instances]:
    """The targets; a ValueError if there are none."""
    if targets is None:
        raise ValueError("region heads need targets in training: give 'instances' with each image, or call eval()")
    return targets


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeads(ROIHeads):
    """The heads of a C4 model: boxes and masks share the last ResNet stage, run once per region.

    Source: Deep Residual Learning, https://arxiv.org/abs/1512.03385, appendix A.

    Args:
        in_features: name of the one feature map.
        pooler: region pooler on it.
        res5: module (or list of blocks) on pooled regions.
        box_predictor: like :class:`FastRCNNOutputLayers`, on the mean over each region.
        mask_head: on the output of res5; None for boxes alone.
        **kwargs: see :class:`ROIHeads`.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: Sequence[str],
        pooler: ROIPooler,
        res5: nn.Module | Sequence[nn.Module],
        box_predictor: Any,
        mask_head: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.in_features = in_features
        self.pooler = pooler
        self.res5 = res5 if isinstance(res5, nn.Module) else nn.Sequential(*res5)
        self.box_predictor = box_predictor
        self.mask_on = mask_head is not None
        if mask_head is not None:
            self.mask_head = mask_head

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:  # type: ignore[override]
        in_features, node = cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.ROI_BOX_HEAD
        if len(in_features) != 1 or cfg.MODEL.KEYPOINT_ON:
            raise ValueError(
                "Res5ROIHeads takes one feature map and has no keypoint branch: MODEL.ROI_HEADS.IN_FEATURES is "
                f"{in_features}, MODEL.KEYPOINT_ON is {cfg.MODEL.KEYPOINT_ON}; StandardROIHeads takes both"
            )
        res5, channels = cls._build_res5_block(cfg)
        ret = {
            **super().from_config(cfg),
            "in_features": in_features,
            "pooler": build_pooler(node, input_shape, in_features),
            "res5": res5,
            "box_predictor": FastRCNNOutputLayers(cfg, ShapeSpec(channels=channels, height=1, width=1)),
        }
        if cfg.MODEL.MASK_ON:
            side = node.POOLER_RESOLUTION
            ret["mask_head"] = build_mask_head(cfg, ShapeSpec(channels=channels, height=side, width=side))
        return ret

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Module, int]:
        """The last ResNet stage of the config's backbone and its output channels."""
        node = cfg.MODEL.RESNETS
        if node.DEFORM_ON_PER_STAGE[-1]:
            raise ValueError("Res5ROIHeads has no deformable res5: set MODEL.RESNETS.DEFORM_ON_PER_STAGE[3] to False")
        out_channels = node.RES2_OUT_CHANNELS * 8  # each stage after res2 doubles the channels
        blocks = ResNet.make_stage(
            BottleneckBlock,
            3,
            stride_per_block=[2, 1, 1],
            in_channels=out_channels // 2,
            bottleneck_channels=node.NUM_GROUPS * node.WIDTH_PER_GROUP * 8,
            out_channels=out_channels,
            num_groups=node.NUM_GROUPS,
            norm=node.NORM,
            stride_in_1x1=node.STRIDE_IN_1X1,
        )
        return nn.Sequential(*blocks), out_channels

    def _shared_roi_transform(self, features: list[torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
        return self.res5(self.pooler(features, boxes))

    def forward(
        self, images: ImageList, features: Features, proposals: list[Instances], targets: list[Instances] | None = None
    ) -> tuple[list[Instances], Losses]:
        if self.training:
            proposals = self.label_and_sample_proposals(proposals, training_targets(targets))
        regions = self._shared_roi_transform(
            [features[name] for name in self.in_features], [p.proposal_boxes for p in proposals]
        )
        predictions = self.box_predictor(regions.mean(dim=[2, 3]))
        if not self.training:
            del regions  # the mask branch pools the detections anew
            detections, _ = self.box_predictor.inference(predictions, proposals)
            return self.forward_with_given_boxes(features, detections), {}
        losses = self.box_predictor.losses(predictions, proposals)
        if self.mask_on:
            foreground, masks = select_foreground_proposals(proposals, self.num_classes)
            losses.update(self.mask_head(regions[torch.cat(masks)], foreground))
        return [], losses

    def forward_with_given_boxes(self, features: Features, instances: list[Instances]) -> list[Instances]:
        """Adds masks to instances that have "pred_boxes" and "pred_classes"; for inference."""
        if not self.mask_on:
            return instances
        regions = self._shared_roi_transform(
            [features[name] for name in self.in_features], [x.pred_boxes for x in instances]
        )
        return self.mask_head(regions, instances)


@ROI_HEADS_REGISTRY.register()
class StandardROIHeads(ROIHeads):
    """Heads that share nothing: each pools its own features. For FPN, DC5 and their like.

    A subclass replaces a part by overriding its ``_init_*_head`` (keyword arguments from a config) or its
    ``_forward_*``.

    Args:
        box_in_features: feature maps of the box head.
        box_pooler: its pooler.
        box_head: from pooled regions to features.
        box_predictor: like :class:`FastRCNNOutputLayers`.
        mask_in_features: feature maps of the mask head; None for no masks.
        mask_pooler: its pooler; None if the head takes the dict of feature maps itself.
        mask_head: like :class:`BaseMaskRCNNHead`.
        keypoint_in_features: feature maps of the keypoint head; None for no keypoints.
        keypoint_pooler: its pooler; None as for masks.
        keypoint_head: like :class:`BaseKeypointRCNNHead`.
        train_on_pred_boxes: whether the other heads train on the boxes that the box head predicts.
        **kwargs: see :class:`ROIHeads`.
    """

    @configurable
    def __init__(
        self,
        *,
        box_in_features: Sequence[str],
        box_pooler: ROIPooler,
        box_head: nn.Module,
        box_predictor: Any,
        mask_in_features: Sequence[str] | None = None,
        mask_pooler: ROIPooler | None = None,
        mask_head: Any = None,
        keypoint_in_features: Sequence[str] | None = None,
        keypoint_pooler: ROIPooler | None = None,
        keypoint_head: Any = None,
        train_on_pred_boxes: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.in_features = self.box_in_features = box_in_features
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.mask_on = mask_in_features is not None
        if mask_in_features is not None:
            self.mask_in_features = mask_in_features
            self.mask_pooler = mask_pooler
            self.mask_head = mask_head
        self.keypoint_on = keypoint_in_features is not None
        if keypoint_in_features is not None:
            self.keypoint_in_features = keypoint_in_features
            self.keypoint_pooler = keypoint_pooler
            self.keypoint_head = keypoint_head
        self.train_on_pred_boxes = train_on_pred_boxes

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:  # type: ignore[override]
        return {
            **super().from_config(cfg),
            "train_on_pred_boxes": cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES,
            **cls._init_box_head(cfg, input_shape),
            **cls._init_mask_head(cfg, input_shape),
            **cls._init_keypoint_head(cfg, input_shape),
        }

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        names, node = cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.ROI_BOX_HEAD
        head = build_box_head(cfg, pooled_shape(node, input_shape, names))
        return {
            "box_in_features": names,
            "box_pooler": build_pooler(node, input_shape, names),
            "box_head": head,
            "box_predictor": FastRCNNOutputLayers(cfg, head.output_shape),
        }

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if not cfg.MODEL.MASK_ON:
            return {}
        return _init_branch("mask", build_mask_head, cfg, cfg.MODEL.ROI_MASK_HEAD, input_shape)

    @classmethod
    def _init_keypoint_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if not cfg.MODEL.KEYPOINT_ON:
            return {}
        return _init_branch("keypoint", build_keypoint_head, cfg, cfg.MODEL.ROI_KEYPOINT_HEAD, input_shape)

    def forward(
        self, images: ImageList, features: Features, proposals: list[Instances], targets: list[Instances] | None = None
    ) -> tuple[list[Instances], Losses]:
        if not self.training:
            # The other heads see the detections only, not all proposals (Mask R-CNN, section 3.1).
            return self.forward_with_given_boxes(features, self._forward_box(features, proposals)), {}
        proposals = self.label_and_sample_proposals(proposals, training_targets(targets))
        losses = self._forward_box(features, proposals)
        losses.update(self._forward_mask(features, proposals))
        losses.update(self._forward_keypoint(features, proposals))
        return proposals, losses

    def forward_with_given_boxes(self, features: Features, instances: list[Instances]) -> list[Instances]:
        """Adds masks and keypoints to instances that have "pred_boxes" and "pred_classes"; for inference."""
        return self._forward_keypoint(features, self._forward_mask(features, instances))

    def _forward_box(self, features: Features, proposals: list[Instances]) -> Any:
        """The box branch: its losses in training, detections in inference.

        With train_on_pred_boxes the "proposal_boxes" are replaced by the predicted ones.
        """
        maps = [features[name] for name in self.box_in_features]
        predictions = self.box_predictor(self.box_head(self.box_pooler(maps, [p.proposal_boxes for p in proposals])))
        if not self.training:
            return self.box_predictor.inference(predictions, proposals)[0]
        losses = self.box_predictor.losses(predictions, proposals)
        if self.train_on_pred_boxes:
            with torch.no_grad():
                refined = self.box_predictor.predict_boxes_for_gt_classes(predictions, proposals)
                for p, boxes in zip(proposals, refined):
                    p.proposal_boxes = Boxes(boxes)
        return losses

    def _region_features(
        self, features: Features, names: Sequence[str], pooler: ROIPooler | None, instances: list[Instances]
    ) -> torch.Tensor | Features:
        """Pooled features of the proposals in training or the detections in inference; plain maps without a pooler."""
        if pooler is None:
            return {name: features[name] for name in names}
        field = "proposal_boxes" if self.training else "pred_boxes"
        return pooler([features[name] for name in names], [x.get(field) for x in instances])

    def _forward_mask(self, features: Features, instances: list[Instances]) -> Any:
        """The mask branch: its losses in training, the instances with "pred_masks" in inference."""
        if not self.mask_on:
            return {} if self.training else instances
        wanted = select_foreground_proposals(instances, self.num_classes)[0] if self.training else instances
        return self.mask_head(self._region_features(features, self.mask_in_features, self.mask_pooler, wanted), wanted)

    def _forward_keypoint(self, features: Features, instances: list[Instances]) -> Any:
        """The keypoint branch: its losses in training, the instances with "pred_keypoints" in inference."""
        if not self.keypoint_on:
            return {} if self.training else instances
        wanted = instances
        if self.training:
            foreground, _ = select_foreground_proposals(instances, self.num_classes)
            wanted = select_proposals_with_visible_keypoints(foreground)
        regions = self._region_features(features, self.keypoint_in_features, self.keypoint_pooler, wanted)
        return self.keypoint_head(regions, wanted)
