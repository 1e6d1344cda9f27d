"""YOLOv6 as a graph of tensors, for exported files."""

from typing import Any

from torch import Tensor, nn

from densekit.deploy.graphs import DETECTIONS, Placement, suppressed

from .augment import GREY


class DetectionGraph(nn.Module):
    """From an image to its detections.

    Args:
        model: a YOLOv6Detector in evaluation mode.

    Raises:
        ValueError: classes suppress each other, or a position has one class only, which graphs do not do.
    """

    kind = "instances"
    inputs = ("image",)
    outputs = DETECTIONS

    def __init__(self, model: Any) -> None:
        super().__init__()
        if not model.selection.multi_label or model.selection.agnostic:
            raise ValueError("MODEL.YOLOV6.MULTI_LABEL_TEST False cannot be exported: set it to True.")
        self.model = model
        self.settings: dict[str, Any] = {}
        multiple = max(model.backbone.size_divisibility, model.head.strides[-1])
        self.placement = Placement(multiple, (float(GREY),) * len(model.pixel_mean), model.frame)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns boxes, scores and classes of an image (C, H, W)."""
        selection = self.model.selection
        boxes, scores = self.model.forward_tensors(((image - self.model.pixel_mean) / self.model.pixel_std)[None])
        where, classes = (scores[0] > selection.score_threshold).nonzero(as_tuple=True)
        boxes, values = boxes[0][where], scores[0][where, classes]
        kept = suppressed(boxes, values, classes, selection.iou_threshold)[: selection.most]
        return boxes[kept], values[kept], classes[kept]
