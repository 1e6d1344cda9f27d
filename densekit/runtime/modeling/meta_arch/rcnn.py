"""Two-stage detectors: "Faster R-CNN" (arXiv:1506.01497) and what grew from it, and the first stage by itself."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from densekit.runtime.config import CfgNode, configurable
from densekit.runtime.modeling.meta_arch.build import META_ARCH_REGISTRY, ImageModel, output_size
from densekit.runtime.modeling.postprocessing import detector_postprocess
from densekit.runtime.modeling.proposal_generator import build_proposal_generator
from densekit.runtime.modeling.roi_heads import build_roi_heads
from densekit.runtime.structures import ImageList, Instances
from densekit.runtime.utils.events import get_event_storage


@META_ARCH_REGISTRY.register()
class GeneralizedRCNN(ImageModel):
    """Features of the image, proposals, and predictions for each proposal.

    Args:
        proposal_generator: Makes the proposals; None if they come with the inputs.
        roi_heads: Predicts for each proposal.
        input_format: Order of the channels, for the pictures.
        vis_period: Iterations between two pictures of the training; 0 for none.
        kwargs: As :class:`~densekit.runtime.modeling.meta_arch.build.ImageModel`.

    Raises:
        ValueError: Pictures are wanted without a format.
    """

    @configurable
    def __init__(
        self,
        *,
        proposal_generator: nn.Module | None,
        roi_heads: nn.Module,
        input_format: str | None = None,
        vis_period: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if vis_period > 0 and input_format is None:
            raise ValueError(f"vis_period={vis_period} needs input_format, for the colours of the pictures.")
        self.proposal_generator = proposal_generator
        # Registered heads of users are of any class that has these methods.
        self.roi_heads: Any = roi_heads
        self.input_format = input_format
        self.vis_period = vis_period

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options = super().from_config(cfg)
        shapes = options["backbone"].output_shape()
        return options | {
            "proposal_generator": build_proposal_generator(cfg, shapes),
            "roi_heads": build_roi_heads(cfg, shapes),
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
        }

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Trains or predicts.

        Args:
            batched_inputs: Per image a dict with ``image`` (C, H, W); in training ``instances``, the ground truth;
                ``proposals``, if the model has no generator of its own; ``height`` and ``width`` in pixels, the frame
                of the results.

        Returns:
            In training the losses by name. Else per image ``{"instances": Instances}`` with ``pred_boxes``, ``scores``,
            ``pred_classes`` and, by the model, ``pred_masks``, ``pred_keypoints``.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        gt_instances = self._gt_instances(batched_inputs)
        features = self.backbone(images.tensor)
        proposals, proposal_losses = self._propose(batched_inputs, images, features, gt_instances)
        _, detector_losses = self.roi_heads(images, features, proposals, gt_instances)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        return {**detector_losses, **proposal_losses}

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> Any:
        """Predicts.

        Args:
            batched_inputs: As in :meth:`forward`.
            detected_instances: Per image ``pred_boxes`` and ``pred_classes`` that are already known, in the frame of
                the network input: only what else belongs to each box is predicted.
            do_postprocess: Scale the results to the frame that each input asks for.

        Returns:
            As :meth:`forward`; without post-processing the Instances in the frame of the network input.

        Raises:
            ValueError: The model is in training mode.
        """
        if self.training:
            raise ValueError("inference() needs the model in evaluation mode; call model.eval() first.")
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if detected_instances is not None:
            known = [item.to(self.device) for item in detected_instances]
            results = self.roi_heads.forward_with_given_boxes(features, known)
        else:
            proposals, _ = self._propose(batched_inputs, images, features, None)
            results, _ = self.roi_heads(images, features, proposals, None)
        return self._postprocess(results, batched_inputs, images.image_sizes) if do_postprocess else results

    def _propose(
        self,
        batched_inputs: list[dict[str, Any]],
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Proposals and their losses: from the generator, or those that the inputs bring along."""
        if self.proposal_generator is not None:
            return self.proposal_generator(images, features, gt_instances)
        if any("proposals" not in item for item in batched_inputs):
            raise ValueError(
                "This model has no proposal generator (MODEL.PROPOSAL_GENERATOR.NAME=PrecomputedProposals) and an "
                "input has no 'proposals'; set MODEL.LOAD_PROPOSALS and DATASETS.PROPOSAL_FILES_*."
            )
        return [item["proposals"].to(self.device) for item in batched_inputs], {}

    @staticmethod
    def _postprocess(
        instances: list[Instances], batched_inputs: list[dict[str, Any]], image_sizes: list[tuple[int, int]]
    ) -> list[dict[str, Instances]]:
        return [
            {"instances": detector_postprocess(result, *output_size(item, size))}
            for result, item, size in zip(instances, batched_inputs, image_sizes)
        ]

    def visualize_training(self, batched_inputs: list[dict[str, Any]], proposals: list[Instances]) -> None:
        """Stores a picture of the first image: left its ground-truth boxes, right its 20 best proposals."""
        # Only pictures need the drawing code and its dependencies.
        from densekit.runtime.data.detection_utils import convert_image_to_rgb
        from densekit.runtime.utils.visualizer import Visualizer

        if self.input_format is None:
            raise ValueError("Pictures of the training need input_format, for their colours.")
        item, found = batched_inputs[0], proposals[0]
        image = convert_image_to_rgb(item["image"].permute(1, 2, 0), self.input_format)
        truth = Visualizer(image, None).overlay_instances(boxes=item["instances"].gt_boxes)
        best = found.proposal_boxes.tensor[:20].detach().cpu().numpy()
        guess = Visualizer(image, None).overlay_instances(boxes=best)
        both = np.concatenate((truth.get_image(), guess.get_image()), axis=1).transpose(2, 0, 1)
        get_event_storage().put_image("Left: GT bounding boxes;  Right: Predicted proposals", both)


@META_ARCH_REGISTRY.register()
class ProposalNetwork(ImageModel):
    """A backbone and a proposal generator.

    Args:
        proposal_generator: Makes the proposals.
        kwargs: As :class:`~densekit.runtime.modeling.meta_arch.build.ImageModel`.
    """

    @configurable
    def __init__(self, *, proposal_generator: nn.Module, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.proposal_generator = proposal_generator

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options = super().from_config(cfg)
        return options | {"proposal_generator": build_proposal_generator(cfg, options["backbone"].output_shape())}

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Trains or proposes; inputs as of :class:`GeneralizedRCNN`.

        Returns:
            In training the losses by name. Else per image ``{"proposals": Instances}`` with ``proposal_boxes`` and
            ``objectness_logits``.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        gt_instances = self._gt_instances(batched_inputs)
        proposals, losses = self.proposal_generator(images, features, gt_instances)
        if self.training:
            return losses
        return [
            {"proposals": detector_postprocess(result, *output_size(item, size))}
            for result, item, size in zip(proposals, batched_inputs, images.image_sizes)
        ]
