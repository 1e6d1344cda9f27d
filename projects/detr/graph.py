"""DETR as a graph of tensors, for exported files."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from densekit.deploy.graphs import DETECTIONS, Placement


class DetectionGraph(nn.Module):
    """From an image to one detection of each query, in the order of the queries.

    Args:
        model: a DetrDetector in evaluation mode.

    Raises:
        ValueError: it predicts masks, or its backbone wants padding.
    """

    kind = "instances"
    inputs = ("image",)
    outputs = DETECTIONS

    def __init__(self, model: Any) -> None:
        super().__init__()
        if not hasattr(model.detr, "encode"):
            raise ValueError("MODEL.MASK_ON True: a DETR with masks cannot be exported; its detector can.")
        if model.size_divisibility > 1:
            raise ValueError(
                f"MODEL.BACKBONE.NAME: this backbone wants sides that are multiples of {model.size_divisibility}, and "
                "a DETR with padding cannot be exported."
            )
        self.model = model
        self.settings: dict[str, Any] = {}
        self.placement = Placement(1, tuple(model.pixel_mean.flatten().tolist()))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns boxes, scores and classes of an image (C, H, W)."""
        detr = self.model.detr
        outputs = detr.predict(detr.encode(((image - self.model.pixel_mean) / self.model.pixel_std)[None], None))
        scores, classes = outputs["pred_logits"][0].float().softmax(-1)[:, :-1].max(-1)
        boxes = box_convert(outputs["pred_boxes"][0].float(), "cxcywh", "xyxy")
        height, width = image.shape[-2:]
        x, y = boxes[:, 0::2] * width, boxes[:, 1::2] * height
        return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1), scores, classes
