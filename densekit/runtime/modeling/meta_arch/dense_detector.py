"""The base of detectors that predict at every location of their feature maps, in one stage."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from densekit.runtime.modeling.backbone import Backbone
from densekit.runtime.modeling.meta_arch.build import ImageModel, output_size
from densekit.runtime.modeling.postprocessing import detector_postprocess
from densekit.runtime.structures import ImageList, Instances


class DenseDetector(ImageModel):
    """A backbone and a head on some of its maps; a subclass knows the losses and the decoding.

    Args:
        backbone: The backbone.
        head: Called with the list of feature maps; returns lists of predictions, one entry per map.
        head_in_features: Names of the maps, finest first; all of the backbone's if None.
        pixel_mean: Mean of each image channel, in the units of the input.
        pixel_std: Standard deviation of each channel.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: list[str] | None = None,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__(backbone, pixel_mean, pixel_std)
        self.head = head
        shapes = backbone.output_shape()
        self.head_in_features = head_in_features or sorted(shapes, key=lambda name: shapes[name].stride or 0)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Trains or predicts.

        Args:
            batched_inputs: Per image a dict with ``image`` (C, H, W); in training ``instances``, the ground truth;
                ``height`` and ``width`` in pixels, the frame of the results.

        Returns:
            In training the losses by name. Else per image ``{"instances": Instances}`` with ``pred_boxes``, ``scores``
            and ``pred_classes``.

        Raises:
            ValueError: Ground truth is missing in training.
        """
        images = self.preprocess_image(batched_inputs)
        maps = self.backbone(images.tensor)
        features = [maps[name] for name in self.head_in_features]
        predictions = self.head(features)
        if self.training:
            gt_instances = self._gt_instances(batched_inputs)
            if gt_instances is None:
                raise ValueError("A detector needs ground truth in training; the inputs have no 'instances'.")
            return self.forward_training(images, features, predictions, gt_instances)
        results = self.forward_inference(images, features, predictions)
        return [
            {"instances": detector_postprocess(result, *output_size(item, size))}
            for result, item, size in zip(results, batched_inputs, images.image_sizes)
        ]

    def forward_training(
        self, images: ImageList, features: list[Tensor], predictions: Any, gt_instances: list[Instances]
    ) -> dict[str, Tensor]:
        """The losses by name."""
        raise NotImplementedError(f"{type(self).__name__} has no forward_training.")

    def forward_inference(self, images: ImageList, features: list[Tensor], predictions: Any) -> list[Instances]:
        """The detections of each image, in the frame of the network input."""
        raise NotImplementedError(f"{type(self).__name__} has no forward_inference.")
