"""Panoptic segmentation from Mask R-CNN and a semantic head: "Panoptic Feature Pyramid Networks" (arXiv:1901.02446)."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from densekit.runtime.config import CfgNode, configurable
from densekit.runtime.modeling.meta_arch.build import META_ARCH_REGISTRY, output_size
from densekit.runtime.modeling.meta_arch.rcnn import GeneralizedRCNN
from densekit.runtime.modeling.meta_arch.semantic_seg import build_sem_seg_head
from densekit.runtime.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from densekit.runtime.structures import Instances


@META_ARCH_REGISTRY.register()
class PanopticFPN(GeneralizedRCNN):
    """Instances and semantic classes from shared features, merged without learning.

    Args:
        sem_seg_head: As of :class:`~densekit.runtime.modeling.meta_arch.semantic_seg.SemanticSegmentor`.
        combine_overlap_thresh: An instance that earlier ones cover by more than this share is dropped.
        combine_stuff_area_thresh: Smallest stuff segment, in pixels.
        combine_instances_score_thresh: Smallest score of an instance.
        kwargs: As :class:`~densekit.runtime.modeling.meta_arch.rcnn.GeneralizedRCNN`.
    """

    @configurable
    def __init__(
        self,
        *,
        sem_seg_head: nn.Module,
        combine_overlap_thresh: float = 0.5,
        combine_stuff_area_thresh: float = 4096,
        combine_instances_score_thresh: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sem_seg_head: Any = sem_seg_head
        self.combine_overlap_thresh = combine_overlap_thresh
        self.combine_stuff_area_thresh = combine_stuff_area_thresh
        self.combine_instances_score_thresh = combine_instances_score_thresh

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        keys = cfg.MODEL.PANOPTIC_FPN
        options = super().from_config(cfg)
        options["sem_seg_head"] = build_sem_seg_head(cfg, options["backbone"].output_shape())
        options["combine_overlap_thresh"] = keys.COMBINE.OVERLAP_THRESH
        options["combine_stuff_area_thresh"] = keys.COMBINE.STUFF_AREA_LIMIT
        options["combine_instances_score_thresh"] = keys.COMBINE.INSTANCES_CONFIDENCE_THRESH
        if not keys.COMBINE.ENABLED:
            logging.getLogger(__name__).warning(
                "MODEL.PANOPTIC_FPN.COMBINE.ENABLED=False has no effect; call inference(do_postprocess=False)."
            )
        if keys.INSTANCE_LOSS_WEIGHT != 1.0:
            heads = options["roi_heads"]
            for head in (heads.box_predictor, heads.mask_head):
                head.loss_weight = _scaled(head.loss_weight, keys.INSTANCE_LOSS_WEIGHT)
        return options

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Trains or predicts.

        Args:
            batched_inputs: As of :class:`~densekit.runtime.modeling.meta_arch.rcnn.GeneralizedRCNN`; in training also
                ``sem_seg`` (H, W), the class of each pixel.

        Returns:
            In training the losses by name. Else per image ``instances``, ``sem_seg`` (C, height, width) and
            ``panoptic_seg``, see :func:`combine_semantic_and_instance_outputs`.

        Raises:
            ValueError: An input of the training has no labels.
        """
        if not self.training:
            return self.inference(batched_inputs)
        for needed in ("instances", "sem_seg"):
            if any(needed not in item for item in batched_inputs):
                raise ValueError(f"PanopticFPN needs {needed!r} in every training input.")
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        gt_sem_seg = self._batch_sem_seg(batched_inputs, self.sem_seg_head.ignore_value)
        _, sem_seg_losses = self.sem_seg_head(features, gt_sem_seg)
        gt_instances = self._gt_instances(batched_inputs)
        proposals, proposal_losses = self._propose(batched_inputs, images, features, gt_instances)
        _, detector_losses = self.roi_heads(images, features, proposals, gt_instances)
        return {**sem_seg_losses, **proposal_losses, **detector_losses}

    def inference(self, batched_inputs: list[dict[str, Any]], do_postprocess: bool = True) -> Any:  # type: ignore[override]
        """Predicts; without post-processing returns the raw instances and the raw scores, in the network's frame."""
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        sem_seg_results, _ = self.sem_seg_head(features, None)
        proposals, _ = self._propose(batched_inputs, images, features, None)
        detector_results, _ = self.roi_heads(images, features, proposals, None)
        if not do_postprocess:
            return detector_results, sem_seg_results
        return [
            self._combine(sem_seg, instances, size, *output_size(item, size))
            for sem_seg, instances, item, size in zip(
                sem_seg_results, detector_results, batched_inputs, images.image_sizes
            )
        ]

    def _combine(
        self, sem_seg: Tensor, instances: Instances, size: tuple[int, int], height: int, width: int
    ) -> dict[str, Any]:
        scores = sem_seg_postprocess(sem_seg, size, height, width)
        found = detector_postprocess(instances, height, width)
        panoptic = combine_semantic_and_instance_outputs(
            found,
            scores.argmax(dim=0),
            self.combine_overlap_thresh,
            self.combine_stuff_area_thresh,
            self.combine_instances_score_thresh,
        )
        return {"sem_seg": scores, "instances": found, "panoptic_seg": panoptic}


def combine_semantic_and_instance_outputs(
    instance_results: Instances,
    semantic_results: Tensor,
    overlap_threshold: float,
    stuff_area_thresh: float,
    instances_score_thresh: float,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Lays the instances over each other, best first, and the stuff under them.

    Args:
        instance_results: ``pred_masks`` (N, H, W), ``scores`` and ``pred_classes``.
        semantic_results: (H, W) classes; 0 stands for all things.
        overlap_threshold: See :class:`PanopticFPN`; so are the other two.
        stuff_area_thresh: Smallest stuff segment, in pixels.
        instances_score_thresh: Smallest score of an instance.

    Returns:
        (H, W) int32 segment of each pixel, 0 for none; and a dict per segment: ``id``, ``isthing``, ``category_id``
        (contiguous), for things ``score`` and ``instance_id`` (the index in ``instance_results``), for stuff ``area``.
    """
    panoptic = torch.zeros_like(semantic_results, dtype=torch.int32)
    segments: list[dict[str, Any]] = []
    masks = instance_results.pred_masks.to(dtype=torch.bool, device=panoptic.device)
    order = torch.argsort(-instance_results.scores).tolist()
    scores, classes = instance_results.scores.tolist(), instance_results.pred_classes.tolist()
    areas = masks.flatten(1).sum(dim=1).tolist()
    for index in order:
        if scores[index] < instances_score_thresh:
            break
        free = masks[index] & (panoptic == 0)
        # Covered share; an empty mask has no share and no place.
        covered = areas[index] - int(free.sum())
        if areas[index] == 0 or covered / areas[index] > overlap_threshold:
            continue
        segment = {"id": len(segments) + 1, "isthing": True, "score": scores[index]}
        segments.append(segment | {"category_id": classes[index], "instance_id": index})
        panoptic[free] = segment["id"]

    for label in (label for label in torch.unique(semantic_results).tolist() if label != 0):
        free = (semantic_results == label) & (panoptic == 0)
        area = int(free.sum())
        if area < stuff_area_thresh:
            continue
        segments.append({"id": len(segments) + 1, "isthing": False, "category_id": label, "area": area})
        panoptic[free] = len(segments)
    return panoptic, segments


def _scaled(weight: float | dict[str, float], factor: float) -> float | dict[str, float]:
    return {name: value * factor for name, value in weight.items()} if isinstance(weight, dict) else weight * factor
