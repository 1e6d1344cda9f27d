"""Inference of Panoptic FPN whose semantic branch sees a picture in several views, and whose detector may, too."""

from typing import Any

import torch
from torch import Tensor, nn

from densekit.d2.config import CfgNode
from densekit.d2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA, PanopticFPN
from densekit.d2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from densekit.d2.modeling.postprocessing import sem_seg_postprocess

__all__ = ["PanopticInference", "SemanticBranch", "detector_of"]


class PanopticInference(nn.Module):
    """Wraps a panoptic model, with whose inputs it is called in inference, and which gives the same outputs.

    Semantic scores are those of ``semantic``, instances those of ``detector``; the model's own thresholds combine them
    (arXiv:1901.02446, section 3). The two branches see views of their own because they need not agree on them: scores
    of pixels can be averaged over windows, and an object that a window cuts is no object.

    Args:
        model: The panoptic model.
        semantic: From its inputs to dictionaries with ``sem_seg`` (C, height, width).
        detector: From its inputs to dictionaries with ``instances`` in the frame (height, width).
    """

    output_kinds = ("instances", "sem_seg", "panoptic_seg")

    def __init__(self, model: PanopticFPN, semantic: nn.Module, detector: nn.Module) -> None:
        super().__init__()
        self.training = model.training
        self.model, self.semantic, self.detector = model, semantic, detector

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Per image ``sem_seg``, ``instances`` and ``panoptic_seg``, as the model gives them."""
        return [
            self._combine(semantic["sem_seg"], found["instances"])
            for semantic, found in zip(self.semantic(batched_inputs), self.detector(batched_inputs))
        ]

    def _combine(self, scores: Tensor, instances: Any) -> dict[str, Any]:
        panoptic = combine_semantic_and_instance_outputs(
            instances,
            scores.argmax(dim=0),
            self.model.combine_overlap_thresh,
            self.model.combine_stuff_area_thresh,
            self.model.combine_instances_score_thresh,
        )
        return {"sem_seg": scores, "instances": instances, "panoptic_seg": panoptic}


class SemanticBranch(nn.Module):
    """The semantic branch of a panoptic model, called as a semantic model is.

    Args:
        model: The panoptic model.
    """

    def __init__(self, model: PanopticFPN) -> None:
        super().__init__()
        self.training = model.training
        self.model = model
        self.pixel_mean: Tensor = model.pixel_mean

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Per image ``{"sem_seg": (C, h, w) logits}`` in the frame of the input."""
        images = self.model.preprocess_image(batched_inputs)
        logits, _ = self.model.sem_seg_head(self.model.backbone(images.tensor), None)
        return [{"sem_seg": sem_seg_postprocess(one, size, *size)} for one, size in zip(logits, images.image_sizes)]


def detector_of(model: PanopticFPN, augmented: CfgNode | None = None) -> nn.Module:
    """Returns the detector in a panoptic model, whose modules it shares.

    Args:
        model: The panoptic model.
        augmented: A config by whose ``TEST.AUG`` the detector sees several sizes and mirror images, merges the boxes
            and averages the masks; None for the whole picture once.
    """
    detector = GeneralizedRCNN(
        backbone=model.backbone,
        proposal_generator=model.proposal_generator,
        roi_heads=model.roi_heads,
        pixel_mean=torch.flatten(model.pixel_mean).tolist(),
        pixel_std=torch.flatten(model.pixel_std).tolist(),
        input_format=model.input_format,
    )
    detector.pixel_mean, detector.pixel_std = model.pixel_mean, model.pixel_std  # on their device
    detector.training = model.training
    if augmented is None:
        return detector
    views = GeneralizedRCNNWithTTA(augmented, detector)
    views.training = model.training
    return views
