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
    panoptic, segments = _lay_instances(instance_results, semantic_results, overlap_threshold, instances_score_thresh)
    free = panoptic == 0
    areas = torch.bincount(semantic_results[free])
    table = torch.zeros(int(semantic_results.max()) + 1, dtype=torch.int32)
    for label, area in enumerate(areas.tolist()):
        if label != 0 and area > 0 and area >= stuff_area_thresh:
            segments.append({"id": len(segments) + 1, "isthing": False, "category_id": label, "area": area})
            table[label] = len(segments)
    return torch.where(free, table.to(panoptic.device)[semantic_results], panoptic), segments


def _lay_instances(
    instances: Instances, like: Tensor, overlap_threshold: float, score_threshold: float
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Lays the instances over each other; the device is asked what became of them only once, at the end."""
    order = torch.argsort(-instances.scores)
    order = order[: int((instances.scores >= score_threshold).sum())]
    masks = instances.pred_masks.to(dtype=torch.bool, device=like.device)[order]
    panoptic = torch.zeros_like(like, dtype=torch.int32)
    kept = torch.zeros(len(order) + 1, dtype=torch.bool, device=like.device)
    taken = torch.zeros_like(like, dtype=torch.bool)
    for place, mask in enumerate(masks, start=1):
        free = mask > taken
        area = mask.count_nonzero().double()
        # Covered share; an empty mask has none, and no comparison with NaN holds.
        kept[place] = (area - free.count_nonzero()) / area <= overlap_threshold
        free &= kept[place]
        panoptic.add_(free, alpha=place)  # onto zeros; many times faster than to fill a mask
        taken |= free
    numbers = (kept.cumsum(0) * kept).int()  # the dropped ones leave no gap
    scores, classes = instances.scores.tolist(), instances.pred_classes.tolist()
    segments = [
        {"id": number, "isthing": True, "score": scores[k], "category_id": classes[k], "instance_id": k}
        for number, k in zip(numbers.tolist()[1:], order.tolist())
        if number
    ]
    return numbers[panoptic], segments


def _scaled(weight: float | dict[str, float], factor: float) -> float | dict[str, float]:
    return {name: value * factor for name, value in weight.items()} if isinstance(weight, dict) else weight * factor
