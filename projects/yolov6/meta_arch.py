"""The slot: what the host builds for ``MODEL.META_ARCHITECTURE`` ``"YOLOv6Detector"``."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from densekit.d2.structures import Boxes, ImageList, Instances
from densekit.data.progress import Progress
from densekit.engine.teacher import Teacher
from densekit.weights.formats import read_checkpoint

from .assignment import Assigner, Objects, adaptive_selection, task_aligned
from .augment import GREY, Border, centred_border
from .criterion import DetectionLoss, LossWeights
from .distillation import Lesson, Teaching, channel_divergence, teacher_share
from .graph import DetectionGraph
from .head import ANCHOR_SIZES, EfficientDecoupledHead, HeadOutputs
from .inference import Selection, boxes_in_picture
from .rep_optimizer import Scales, find_scales, take_scales
from .simota import sim_ota
from .units import fuse

_ANCHOR_STRIDES = [8, 16, 32]
_ANCHOR_TOPK = 26  # positions of an object among the anchors, of which a cell has several


@META_ARCH_REGISTRY.register()
class YOLOv6Detector(nn.Module):
    """YOLOv6 behind the host's interface of a model.

    Args:
        backbone: gives the levels.
        in_features: its maps that carry a head, finest first.
        head: of these.
        criterion: the losses.
        assigner: which positions learn an object.
        warmup_assigner: of the first iterations.
        warmup_iters: how many these are.
        selection: how detections are chosen.
        frame: least side of the grey square in whose middle an image is looked at, except in training; 0: none.
        pixel_mean: mean of each channel, in the units of the input.
        pixel_std: standard deviation of each channel.
        teacher: a network to learn from.
        teaching: what of it counts how much.
        rep_scales: of branches that are not there, by the path of their unit; for RepOptimizer.

    Attributes:
        gradient_masks: factors on gradients, by parameter, for RepOptimizer.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    output_kinds = ("instances",)

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        head: EfficientDecoupledHead,
        criterion: DetectionLoss,
        assigner: Assigner,
        warmup_assigner: Assigner,
        warmup_iters: int,
        selection: Selection,
        frame: int = 0,
        pixel_mean: list[float],
        pixel_std: list[float],
        teacher: Teacher | None = None,
        teaching: Teaching | None = None,
        rep_scales: Mapping[str, Scales] | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.criterion = backbone, head, criterion
        self.in_features, self.selection, self.frame = list(in_features), selection, frame
        self.assigner, self.warmup_assigner, self.warmup_iters = assigner, warmup_assigner, warmup_iters
        self.teacher, self.teaching, self._progress = teacher, teaching or Teaching(), Progress(0, 1)
        self.gradient_masks = take_scales(self, rep_scales or {})
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Reads ``MODEL.YOLOV6``; any registered backbone with maps of known stride will do."""
        keys = cfg.MODEL.YOLOV6
        backbone = build_backbone(cfg)
        if keys.NORM not in ("BN", "SyncBN"):
            raise ValueError(f"MODEL.YOLOV6.NORM is {keys.NORM!r}; it can be one of BN, SyncBN.")
        in_features = _levels(backbone.output_shape(), keys.IN_FEATURES)
        head = _build_head(cfg, [backbone.output_shape()[name] for name in in_features])
        if keys.NORM == "SyncBN":
            backbone, head = (nn.SyncBatchNorm.convert_sync_batchnorm(part) for part in (backbone, head))
        return {
            "backbone": backbone,
            "in_features": in_features,
            "head": head,
            "criterion": DetectionLoss(
                strides=head.strides,
                class_loss=keys.CLASS_LOSS,
                box_loss=keys.BOX_LOSS,
                weights=LossWeights(keys.CLASS_WEIGHT, keys.BOX_WEIGHT, keys.BIN_WEIGHT, keys.OBJECT_WEIGHT),
                least_score_sum=keys.LEAST_SCORE_SUM,
                anchor_assigner=partial(task_aligned, topk=_ANCHOR_TOPK),
            ),
            "assigner": _assigner(cfg, "ASSIGNER"),
            "warmup_assigner": _assigner(cfg, "WARMUP_ASSIGNER"),
            "warmup_iters": keys.WARMUP_ASSIGNER_ITERS,
            "selection": Selection(
                score_threshold=keys.SCORE_THRESH_TEST,
                iou_threshold=keys.NMS_THRESH_TEST,
                most=cfg.TEST.DETECTIONS_PER_IMAGE,
                multi_label=keys.MULTI_LABEL_TEST,
            ),
            "frame": keys.FRAME_TEST,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "teacher": _teacher(cfg),
            "teaching": Teaching(
                classes=keys.DISTILL_CLASS_WEIGHT,
                bins=keys.DISTILL_BIN_WEIGHT,
                features=keys.DISTILL_FEATURE_WEIGHT,
                temperature=keys.DISTILL_TEMPERATURE,
            ),
            "rep_scales": find_scales(read_checkpoint(keys.REP_SCALES)["model"]) if keys.REP_SCALES else None,
        }

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Trains or predicts.

        Args:
            batched_inputs: per image a dict with ``image`` (3, H, W); in training ``instances`` with ``gt_boxes`` and
                ``gt_classes``; ``height`` and ``width``, pixels, the frame of the results.

        Returns:
            In training the weighted losses by name. Else per image ``instances`` with ``pred_boxes``, ``scores`` and
            ``pred_classes``.
        """
        images = self.preprocess_image(batched_inputs)
        if not self.training:
            return self.inference(images, batched_inputs)
        levels = self.levels(images.tensor)
        outputs = self.head(levels)
        lesson, taught = None, None
        if self.teacher is not None:
            lesson, taught = self._lesson(self.teacher, images.tensor)
        warming = self._progress.iteration < self.warmup_iters
        assigner = self.warmup_assigner if warming else self.assigner
        with torch.autocast(self.device.type, enabled=False):
            losses = self.criterion(outputs.float(), self._objects(batched_inputs), assigner, lesson)
            if lesson is not None and taught is not None and self.teaching.features:
                divergence = channel_divergence([x.float() for x in levels], [x.float() for x in taught])
                losses["loss_features"] = self.teaching.features * lesson.share * divergence
        return losses

    def begin_iteration(self, progress: Progress) -> None:
        """Is told by the trainer which iteration begins."""
        self._progress = progress

    @torch.no_grad()
    def _lesson(self, teacher: Teacher, images: Tensor) -> tuple[Lesson, list[Tensor]]:
        """Returns the teacher's outputs for a batch, and its levels."""
        model = cast(YOLOv6Detector, teacher.load())
        levels = model.levels(images)
        share = teacher_share(self._progress.iteration / self._progress.max_iter)
        weights = {"class_weight": self.teaching.classes, "bin_weight": self.teaching.bins}
        return Lesson(model.head(levels).float(), share, **weights, temperature=self.teaching.temperature), levels

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Moves, pads with grey, batches and normalises the images."""
        images = [item["image"].to(self.device).float() for item in batched_inputs]
        if not self.training:
            images = [F.pad(image, self._border(image.shape), value=GREY) for image in images]
        divisibility = max(self.backbone.size_divisibility, self.head.strides[-1])
        padded = ImageList.from_tensors(images, divisibility, GREY)
        padded.tensor = (padded.tensor - self.pixel_mean) / self.pixel_std
        return padded

    def _border(self, shape: Sequence[int]) -> Border:
        """The border of an image (3, H, W) in tests."""
        size = shape[-2], shape[-1]
        return centred_border(size, (max(self.frame, size[0]), max(self.frame, size[1])))

    def predict(self, images: Tensor) -> HeadOutputs:
        """The head's outputs for a batch (N, 3, H, W), normalised, with sides that the coarsest stride divides."""
        return self.head(self.levels(images))

    def levels(self, images: Tensor) -> list[Tensor]:
        """The maps that carry a head, finest first, of images as :meth:`predict` takes them."""
        features = self.backbone(images)
        return [features[name] for name in self.in_features]

    def forward_tensors(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, A, 4) xyxy, pixels of the batch, and scores (N, A, K), for images as :meth:`predict` takes them."""
        return self.head.decode(self.predict(images))

    def _objects(self, batched_inputs: list[dict[str, Any]]) -> Objects:
        for item in batched_inputs:
            if "instances" not in item:
                raise ValueError(f"{item.get('file_name', 'An input')} has no 'instances'; training needs them.")
        truths = [item["instances"].to(self.device) for item in batched_inputs]
        return Objects.of([x.gt_classes for x in truths], [x.gt_boxes.tensor for x in truths])

    def inference(self, images: ImageList, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detections in the frame that each input asks for; arguments and result as of :meth:`forward`."""
        all_boxes, all_scores = self.forward_tensors(images.tensor)
        results = []
        for item, boxes, scores in zip(batched_inputs, all_boxes, all_scores):
            size = item["image"].shape[-2], item["image"].shape[-1]
            wanted = (item.get("height", size[0]), item.get("width", size[1]))
            border = self._border(size)
            found = Instances(wanted)
            chosen, found.scores, found.pred_classes = self.selection(boxes.float(), scores.float())
            found.pred_boxes = Boxes(boxes_in_picture(chosen, (border.left, border.top), size, wanted))
            results.append({"instances": found[found.pred_boxes.nonempty()]})
        return results

    def export_graph(self) -> nn.Module:
        """Returns the model as a graph from an image to detections (:mod:`densekit.deploy.graphs`)."""
        return DetectionGraph(self)

    def fuse(self) -> "YOLOv6Detector":
        """Turns every unit into one convolution, for good, and returns the model in evaluation mode.

        The model cannot be trained any more, and its weights have other names.
        """
        self.eval()
        fuse(self)
        return self


def _levels(shapes: Mapping[str, ShapeSpec], wanted: Sequence[str]) -> list[str]:
    """The names of the maps that carry a head, finest first."""
    unknown = [name for name in wanted if name not in shapes]
    if unknown:
        raise ValueError(f"MODEL.YOLOV6.IN_FEATURES has {unknown}, and the backbone gives {list(shapes)}.")
    return sorted(wanted or shapes, key=lambda name: cast(int, shapes[name].stride))


def _teacher(cfg: CfgNode) -> Teacher | None:
    teacher = Teacher.from_config(cfg)
    if teacher is not None and max(cfg.MODEL.YOLOV6.BINS, cfg.MODEL.YOLOV6.EXTRA_BINS) == 1:
        raise ValueError(
            "A teacher's boxes are learnt as distributions: set MODEL.YOLOV6.BINS 17, or for a network whose deployed "
            "form predicts plain distances MODEL.YOLOV6.EXTRA_BINS 17."
        )
    return teacher


def _build_head(cfg: CfgNode, shapes: Sequence[ShapeSpec]) -> EfficientDecoupledHead:
    keys = cfg.MODEL.YOLOV6
    strides = [cast(int, shape.stride) for shape in shapes]
    if keys.ANCHORS and strides != _ANCHOR_STRIDES:
        raise ValueError(f"MODEL.YOLOV6.ANCHORS needs levels of stride {_ANCHOR_STRIDES}, and there are {strides}.")
    return EfficientDecoupledHead(
        in_channels=[cast(int, shape.channels) for shape in shapes],
        strides=strides,
        num_classes=keys.NUM_CLASSES,
        num_bins=keys.BINS,
        extra_bins=keys.EXTRA_BINS,
        anchor_sizes=ANCHOR_SIZES if keys.ANCHORS else (),
        objectness=keys.OBJECTNESS,
    )


def _assigner(cfg: CfgNode, key: str) -> Assigner:
    keys = cfg.MODEL.YOLOV6
    known: dict[str, Assigner] = {
        "tal": partial(task_aligned, topk=keys.TAL_TOPK, alpha=keys.TAL_ALPHA, beta=keys.TAL_BETA),
        "atss": adaptive_selection,
        "simota": sim_ota,
    }
    if keys[key] not in known:
        raise ValueError(f"MODEL.YOLOV6.{key} is {keys[key]!r}; it can be one of {', '.join(known)}.")
    return known[keys[key]]
