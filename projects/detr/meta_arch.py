"""The slot: what the host builds for ``MODEL.META_ARCHITECTURE`` ``"DetrDetector"``.

The authors' wrapper calls its model ``"Detr"``. A registry refuses a name twice, so this one has a name of its own, and
configs that say ``"Detr"`` are translated as they are loaded.
"""

import os
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert

from densekit.d2.config import CfgNode, configurable
from densekit.d2.data import MetadataCatalog
from densekit.d2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone, detector_postprocess
from densekit.d2.structures import BitMasks, Boxes, ImageList, Instances, PolygonMasks
from densekit.d2.utils.events import get_event_storage
from densekit.layers.position_encoding import LearnedPositionEncoding, SinePositionEncoding
from densekit.layers.transformer import Transformer
from densekit.modeling.matcher import HungarianMatcher
from densekit.modeling.set_criterion import SetCriterion, weighted

from .backbone import MaskedBackbone
from .detr import DETR
from .frozen import load_detector
from .graph import DetectionGraph
from .query_fusion import merge_masks, paste_masks
from .query_selection import QuerySelection
from .segmentation import SegmentingDETR

_Size = tuple[int, int]
_POSITIONS: dict[str, type[nn.Module]] = {"sine": SinePositionEncoding, "learned": LearnedPositionEncoding}


@META_ARCH_REGISTRY.register()
class DetrDetector(nn.Module):
    """DETR behind the host's interface of a model.

    Args:
        detr: the network, with masks or without.
        criterion: the losses.
        loss_weights: weight of each loss; what has none is logged only.
        pixel_mean: mean of each channel, in the units of the input.
        pixel_std: standard deviation of each channel.
        size_divisibility: what height and width of a padded batch must be a multiple of; 0: of nothing.
        things: for a panoptic model, the classes that are things; the others are stuff.
        panoptic_score_threshold: least score of a segment of the panoptic output.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        detr: DETR | SegmentingDETR,
        criterion: SetCriterion,
        loss_weights: dict[str, float],
        pixel_mean: list[float],
        pixel_std: list[float],
        size_divisibility: int = 0,
        things: Collection[int] | None = None,
        panoptic_score_threshold: float = 0.85,
    ) -> None:
        super().__init__()
        self.detr = detr
        self.criterion = criterion
        self.loss_weights = loss_weights
        self.size_divisibility = size_divisibility
        self.things = None if things is None else frozenset(things)
        self.panoptic_score_threshold = panoptic_score_threshold
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Reads ``MODEL.DETR``; any registered backbone with one feature map or more will do."""
        keys = cfg.MODEL.DETR
        backbone = build_backbone(cfg)
        detector = _build_detector(cfg, backbone)
        matcher = HungarianMatcher(l1_weight=keys.L1_WEIGHT, giou_weight=keys.GIOU_WEIGHT)
        return {
            "detr": _with_masks(cfg, detector, backbone) if cfg.MODEL.MASK_ON else detector,
            "criterion": SetCriterion(
                num_classes=keys.NUM_CLASSES,
                matcher=matcher,
                no_object_weight=keys.NO_OBJECT_WEIGHT,
            ),
            "loss_weights": {
                "loss_ce": 1.0,
                "loss_bbox": keys.L1_WEIGHT,
                "loss_giou": keys.GIOU_WEIGHT,
                "loss_mask": 1.0,
                "loss_dice": 1.0,
            },
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": backbone.size_divisibility,
            "things": _things(cfg.DATASETS.TRAIN) if cfg.MODEL.MASK_ON and keys.PANOPTIC_ON else None,
            "panoptic_score_threshold": keys.PANOPTIC_SCORE_THRESH,
        }

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Trains or predicts.

        Args:
            batched_inputs: per image a dict with ``image`` (3, H, W); in training ``instances`` with ``gt_boxes``,
                ``gt_classes`` and, for masks, ``gt_masks``; ``height`` and ``width``, pixels, the frame of the results.

        Returns:
            In training the weighted losses by name. Else per image ``instances`` with ``pred_boxes``, ``scores``,
            ``pred_classes`` and, with masks, ``pred_masks`` (N, height, width) bool; for a panoptic model also
            ``panoptic_seg``, (height, width) int32 segments from 1, 0 for none, and a dict per segment with ``id``,
            ``isthing``, ``category_id`` and ``area``.
        """
        images = self.preprocess_image(batched_inputs)
        if self.training:
            return self.losses(images, batched_inputs)
        return self.inference(images, batched_inputs)

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Moves, normalises, pads and batches the images."""
        images = [(item["image"].to(self.device) - self.pixel_mean).div_(self.pixel_std) for item in batched_inputs]
        padded = ImageList.from_tensors(images, self.size_divisibility)
        if padded.tensor.device.type == "cpu":  # convolutions are faster there with the channels of a pixel together
            padded.tensor = padded.tensor.contiguous(memory_format=torch.channels_last)
        return padded

    def losses(self, images: ImageList, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The weighted losses; what has no weight goes to the event storage.

        Raises:
            ValueError: an input has no ``instances``.
        """
        targets = [self._target(item, images) for item in batched_inputs]
        outputs = self.detr(images.tensor, images.image_sizes)
        losses = self.criterion(outputs, targets)
        storage, watched = get_event_storage(), ("class_error", "cardinality_error")
        for name, value in zip(watched, torch.stack([losses[name] for name in watched]).tolist()):  # one transfer
            storage.put_scalar(f"detr/{name}", value)
        return weighted(losses, self.loss_weights)

    def _target(self, item: dict[str, Any], images: ImageList) -> dict[str, Any]:
        """Ground truth of one image as the criterion takes it."""
        if "instances" not in item:
            raise ValueError(f"{item.get('file_name', 'An input')} has no 'instances'; training needs them.")
        truth = item["instances"].to(self.device)
        height, width = truth.image_size
        scale = truth.gt_boxes.tensor.new_tensor([width, height, width, height])
        target = {
            "labels": truth.gt_classes,
            "boxes": box_convert(truth.gt_boxes.tensor, "xyxy", "cxcywh") / scale,
        }
        if "file_name" in item:
            target["name"] = item["file_name"]
        if isinstance(self.detr, SegmentingDETR):
            target["masks"] = _padded_masks(truth, images)
        return target

    def export_graph(self) -> nn.Module:
        """Returns the model as a graph from an image to detections (:mod:`densekit.deploy.graphs`)."""
        return DetectionGraph(self)

    @property
    def output_kinds(self) -> tuple[str, ...]:
        """The keys of :meth:`inference`'s results."""
        return ("instances",) if self.things is None else ("instances", "panoptic_seg")

    def inference(self, images: ImageList, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Predictions in the frame that each input asks for; arguments and result as of :meth:`forward`."""
        outputs = self.detr(images.tensor, images.image_sizes)
        padded = (int(images.tensor.shape[-2]), int(images.tensor.shape[-1]))
        results = []
        for index, (item, size) in enumerate(zip(batched_inputs, images.image_sizes)):
            wanted = (item.get("height", size[0]), item.get("width", size[1]))
            one = {name: values[index].float() for name, values in outputs.items()}
            result: dict[str, Any] = {"instances": self._instances(one, padded, size, wanted)}
            if self.things is not None:
                result["panoptic_seg"] = self._panoptic(one, self.things, padded, size, wanted)
            results.append(result)
        return results

    def _instances(self, outputs: dict[str, Tensor], padded: _Size, size: _Size, wanted: _Size) -> Instances:
        """One image's queries as detections; boxes without area in the wanted frame are dropped."""
        probability = outputs["pred_logits"].softmax(dim=-1)
        found = Instances(size)
        found.pred_boxes = Boxes(box_convert(outputs["pred_boxes"], "cxcywh", "xyxy"))
        found.pred_boxes.scale(scale_x=size[1], scale_y=size[0])
        found.scores, found.pred_classes = probability[:, :-1].max(dim=-1)
        found.query = torch.arange(len(probability), device=probability.device)
        if self.things is not None:  # queries for stuff are no instances
            found = found[torch.isin(found.pred_classes, found.pred_classes.new_tensor(sorted(self.things)))]
        found = detector_postprocess(found, *wanted)
        queries = found.query
        found.remove("query")
        if "pred_masks" in outputs:
            found.pred_masks = paste_masks(outputs["pred_masks"][queries], padded, size, wanted)
        return found

    def _panoptic(
        self, outputs: dict[str, Tensor], things: Collection[int], padded: _Size, size: _Size, wanted: _Size
    ) -> tuple[Tensor, list[dict[str, Any]]]:
        """The merged masks in the host's form: identifiers start at 1, 0 is no segment."""
        segments, info = merge_masks(
            outputs["pred_logits"],
            outputs["pred_masks"],
            padded_size=padded,
            image_size=size,
            output_size=wanted,
            things=things,
            score_threshold=self.panoptic_score_threshold,
        )
        if not info:
            return segments, info
        return segments + 1, [segment | {"id": segment["id"] + 1} for segment in info]


def _with_masks(cfg: CfgNode, detector: DETR, backbone: Backbone) -> SegmentingDETR:
    frozen = cfg.MODEL.DETR.FROZEN_WEIGHTS
    model = SegmentingDETR(detector, channels=[channels for channels, _ in _maps(backbone)], frozen=bool(frozen))
    if frozen:
        try:
            load_detector(detector, frozen)
        except FileNotFoundError as error:
            if not (cfg.MODEL.WEIGHTS or os.path.isfile(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))):
                raise
            model.missing = error  # a checkpoint of this stage, to resume or evaluate, has the detector too
    return model


def _things(datasets: Sequence[str]) -> set[int]:
    """The classes that the training data set calls things."""
    known = MetadataCatalog.get(datasets[0]).get("thing_dataset_id_to_contiguous_id") if datasets else None
    if known is None:
        raise ValueError(
            f"MODEL.DETR.PANOPTIC_ON: DATASETS.TRAIN is {tuple(datasets)}; its first data set must be a panoptic one, "
            "whose metadata has thing_dataset_id_to_contiguous_id."
        )
    return set(known.values())


def _maps(backbone: Backbone) -> list[tuple[int, int]]:
    """Channels and stride of the backbone's feature maps, finest first."""
    maps = []
    for name, shape in backbone.output_shape().items():
        if shape.channels is None or shape.stride is None:
            raise ValueError(f"DETR needs to know the channels and the stride of feature map {name!r}, got {shape}.")
        maps.append((shape.channels, shape.stride))
    return maps


def _build_detector(cfg: CfgNode, backbone: Backbone) -> DETR:
    keys = cfg.MODEL.DETR
    if keys.POSITION_EMBEDDING not in _POSITIONS:
        raise ValueError(
            f"MODEL.DETR.POSITION_EMBEDDING is {keys.POSITION_EMBEDDING!r}; it can be one of {', '.join(_POSITIONS)}."
        )
    channels, stride = _maps(backbone)[-1]
    return DETR(
        backbone=MaskedBackbone(backbone, stride=stride, padding_mask=keys.PADDING_MASK),
        position_encoding=_POSITIONS[keys.POSITION_EMBEDDING](keys.HIDDEN_DIM),
        transformer=Transformer(
            embed_dim=keys.HIDDEN_DIM,
            num_heads=keys.NHEADS,
            num_encoder_layers=keys.ENC_LAYERS,
            num_decoder_layers=keys.DEC_LAYERS,
            ffn_dim=keys.DIM_FEEDFORWARD,
            dropout=keys.DROPOUT,
            pre_norm=keys.PRE_NORM,
            checkpointed=keys.ACTIVATION_CHECKPOINT,
        ),
        in_channels=channels,
        num_classes=keys.NUM_CLASSES,
        num_queries=keys.NUM_OBJECT_QUERIES,
        aux_loss=keys.DEEP_SUPERVISION,
        selection=QuerySelection(keys.HIDDEN_DIM, keys.NUM_CLASSES) if keys.QUERY_SELECTION else None,
    )


def _padded_masks(truth: Instances, images: ImageList) -> Tensor:
    """Ground-truth masks (N, H, W) bool of the padded batch's size."""
    height, width = truth.image_size
    padded_height, padded_width = images.tensor.shape[-2:]
    if not len(truth):  # the mapper gives an image without objects no masks either
        return torch.zeros(0, padded_height, padded_width, dtype=torch.bool, device=images.device)
    masks: Any = truth.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, height, width)
    bits = masks.tensor.to(images.device)
    return F.pad(bits, (0, padded_width - width, 0, padded_height - height))
