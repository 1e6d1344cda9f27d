"""Models as graphs of tensors: one picture in, tensors out, for files that run without densekit.

A graph takes ``image`` (C, H, W), float32 in the units of pictures: resized, in the channel order that the model was
trained on, and placed as :class:`Placement` says; it normalises by itself. Some take ``size`` (2,), too, float32:
height and width of the picture in the image. The results are in pixels of the image. K classes, D detections:

- of kind "sem_seg": ``sem_seg`` (K, H, W), scores.
- of kind "instances": ``boxes`` (D, 4) xyxy, ``scores`` (D,) and ``classes`` (D,), best first; ``masks`` (D, M, M), the
  probability of each cell of the box, ``mask_scores`` (D,), and ``heatmaps`` (D, keypoints, S, S), logits, from models
  that have them.
- of kind "panoptic": those, and ``sem_seg`` (K, H, W).
- of kind "classes": ``class_scores`` (K,), which add up to 1.

A system whose model is none of the host's has a method ``export_graph``, which returns a module of this form with the
attributes ``kind``, ``inputs``, ``outputs``, ``placement`` and ``settings``, what is needed to merge the results; and
maybe ``least_side`` in place of :data:`LEAST_SIDE`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms

from densekit.d2.modeling import GeneralizedRCNN, PanopticFPN, RetinaNet, SemanticSegmentor
from densekit.modeling.image_classifier import ImageClassifier
from densekit.modeling.image_sized_segmentor import ImageSizedSegmentor

__all__ = ["DETECTIONS", "LEAST_SIDE", "ImageGraph", "Placement", "enlarged", "graph_of", "rows_of_map", "suppressed"]

DETECTIONS = ("boxes", "scores", "classes")
# Of images, pixels. Below, a map of stride 128 has a row of one cell, which torch traces in another way.
LEAST_SIDE = 160


@dataclass(frozen=True)
class Placement:
    """Position of a picture in the image that a graph takes.

    Attributes:
        multiple: the image's sides are multiples of it; what this adds lies to the right and below.
        value: of the padding, one for each channel, in the units of pictures.
        least: the picture is put into the middle of a frame with at least such sides first; 0 for none.
    """

    multiple: int
    value: Sequence[float]
    least: int = 0

    def place(self, picture: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Returns the image (C, H, W) of a picture (C, h, w), in float32, and the place (left, top) of its corner."""
        height, width = picture.shape[-2:]
        top, left = (max(self.least - side, 0) // 2 for side in (height, width))
        sides = [-(-max(side, self.least) // self.multiple) * self.multiple for side in (height, width)]
        image = torch.tensor(self.value, dtype=torch.float32)[:, None, None].repeat(1, *sides)
        image[:, top : top + height, left : left + width] = picture
        return image, (left, top)

    def take_back(self, outputs: Mapping[str, Tensor], size: Sequence[int], corner: Sequence[int]) -> dict[str, Tensor]:
        """Brings a graph's outputs to pixels of the picture, whose size is (h, w): cuts maps and boxes off.

        Boxes of which nothing is left are dropped.
        """
        (height, width), (left, top) = size, corner
        found = dict(outputs)
        if "sem_seg" in found:
            found["sem_seg"] = found["sem_seg"][:, top : top + height, left : left + width]
        if "boxes" in found:
            boxes = found["boxes"] - found["boxes"].new_tensor([left, top, left, top])
            boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
            kept = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
            found |= {name: part[kept] for name, part in (found | {"boxes": boxes}).items() if name != "sem_seg"}
        return found


def graph_of(model: nn.Module) -> nn.Module:
    """Returns the graph of a model in evaluation mode, which shares its weights.

    Raises:
        ValueError: It cannot be exported; the message says why.
    """
    if hasattr(model, "export_graph"):
        return model.export_graph().eval()  # type: ignore[operator]
    if type(model) is SemanticSegmentor:
        return SegmentationGraph(model).eval()
    if type(model) is ImageSizedSegmentor:
        return ImageSizedGraph(model).eval()
    if type(model) is ImageClassifier:
        return ClassifierGraph(model).eval()
    if type(model) is RetinaNet:
        return RetinaNetGraph(model).eval()
    from densekit.deploy import region_graphs  # which stands on this module

    if type(model) is GeneralizedRCNN:
        return region_graphs.RegionGraph(model).eval()
    if type(model) is PanopticFPN:
        return region_graphs.PanopticGraph(model).eval()
    raise ValueError(
        f"{type(model).__name__} cannot be exported: there is no graph of tensors for it. Semantic segmenters, "
        "ImageClassifier, GeneralizedRCNN, PanopticFPN, RetinaNet and systems whose model has a method export_graph "
        "can."
    )


class ImageGraph(nn.Module):
    """Normalises an image that is padded to the right and below, as the host's models do it."""

    inputs: tuple[str, ...] = ("image",)

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        constraints = getattr(model.backbone, "padding_constraints", None) or {}
        if constraints.get("square_size", 0) > 0:
            raise ValueError(
                f"{type(model.backbone).__name__} takes squares of one size; a graph for any size cannot be made of it."
            )
        self.settings: dict[str, Any] = {}
        multiple = max(1, constraints.get("size_divisibility", model.backbone.size_divisibility))
        self.placement = Placement(multiple, tuple(model.pixel_mean.flatten().tolist()))

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """The backbone's maps of an image (C, H, W)."""
        return self.model.backbone(((image - self.model.pixel_mean) / self.model.pixel_std)[None])


class SegmentationGraph(ImageGraph):
    """A SemanticSegmentor as a graph."""

    kind = "sem_seg"
    outputs = ("sem_seg",)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns the scores (K, H, W) of an image (C, H, W)."""
        scores, _ = self.model.sem_seg_head(self.features(image), None)
        return (scores[0],)


class ClassifierGraph(ImageGraph):
    """An ImageClassifier as a graph."""

    kind = "classes"
    outputs = ("class_scores",)
    least_side = 64  # its coarsest map has stride 32

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns the scores (K,) of an image (C, H, W)."""
        return (self.model.classifier(self.model.neck(self.features(image))).float().softmax(1)[0],)


class ImageSizedGraph(ImageGraph):
    """An ImageSizedSegmentor as a graph.

    Raises:
        ValueError: it resizes scores to the frame of the results, which a graph does not know.
    """

    kind = "sem_seg"
    outputs = ("sem_seg",)

    def __init__(self, model: ImageSizedSegmentor) -> None:
        super().__init__(model)
        if model.resize_to != "input":
            raise ValueError(f"MODEL.SEM_SEG_HEAD.RESIZE_TO {model.resize_to} cannot be exported; set it to input.")
        self.settings = {"align_corners": bool(model.sem_seg_head.align_corners)}

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns the scores (K, H, W) of an image (C, H, W)."""
        scores = self.model.sem_seg_head.layers(self.features(image))
        return (enlarged(scores[0], image.shape[-2:], self.settings["align_corners"]),)


class RetinaNetGraph(ImageGraph):
    """A RetinaNet as a graph."""

    kind = "instances"
    outputs = DETECTIONS

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns boxes, scores and classes of an image (C, H, W)."""
        model = self.model
        features = self.features(image)
        maps = [features[name] for name in model.head_in_features]
        found = []
        for anchors, logits, deltas in zip(model.anchor_generator(maps), *model.head(maps)):
            rows = rows_of_map(deltas, 4)
            scores = rows_of_map(logits, model.num_classes).sigmoid()
            where, classes = (scores > model.test_score_thresh).nonzero(as_tuple=True)
            values = scores[where, classes]
            best = values.argsort(descending=True)[: model.test_topk_candidates]
            where, classes = where[best], classes[best]
            boxes = model.box2box_transform.apply_deltas(rows[where], anchors.tensor[where])
            found.append((boxes, values[best], classes))
        boxes, scores, classes = (torch.cat(parts) for parts in zip(*found))
        kept = suppressed(boxes, scores, classes, model.test_nms_thresh)[: model.max_detections_per_image]
        return boxes[kept], scores[kept], classes[kept]


def enlarged(scores: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Resizes scores (K, h, w) to a size, bilinearly."""
    return F.interpolate(scores[None], size=tuple(size), mode="bilinear", align_corners=align_corners)[0]


def rows_of_map(maps: Tensor, width: int) -> Tensor:
    """Turns the predictions of anchors (1, A * width, H, W) into rows (H * W * A, width)."""
    return maps[0].permute(1, 2, 0).reshape(-1, width)


def suppressed(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """The indices of boxes that no better one of their class overlaps by more than ``threshold``, best first.

    Classes are moved apart, because a graph has no loop over those that occur. torchvision's batched_nms chooses its
    way by the number of boxes, which a graph cannot ask.
    """
    # Empty tensors have no maximum; the appended numbers change none, as boxes reach beyond 0.
    reach = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).abs().max() * 2 + 1
    # OpenVINO drops scores that are not above 0, as the logits of proposals are.
    lowest = torch.cat([scores, scores.new_ones(1)]).min()
    scores = torch.where(lowest > 0, scores, scores - lowest + 1)
    # A traced nms promises that two boxes are kept at least, and a program refuses a picture that keeps fewer. So two
    # more that lie apart from all others come last, and are cut off.
    apart = torch.tensor([[-4.0, 0.0, -3.0, 1.0], [-6.0, 0.0, -5.0, 1.0]], device=boxes.device) * reach
    last = torch.where(lowest > 0, lowest, torch.ones_like(lowest)).repeat(2) / 2
    moved = boxes + (classes.to(boxes) * reach)[:, None]
    return nms(torch.cat([moved, apart]), torch.cat([scores, last]), threshold)[:-2]
