"""R-CNN (arXiv 1311.2524): each proposed region is cut out, warped, and seen by the network alone.

R: regions, K: classes, D: features. Boxes are xyxy in pixels of the network's input picture.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.modeling import META_ARCH_REGISTRY, ROIHeads, build_backbone, detector_postprocess
from densekit.d2.modeling.box_regression import Box2BoxTransform
from densekit.d2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from densekit.d2.structures import Boxes, Instances
from densekit.modeling.image_classifier import CLASSIFICATION_NECK_REGISTRY
from densekit.ops.object_search import search_objects

from .crops import warp_regions
from .region_svm import check_scikit_learn
from .stages import RegionStages, StageSettings

__all__ = ["RCNN"]

_AT_ONCE = 128  # crops that the network sees at once in inference
_WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # corrections are dx, dy, log dw, log dh themselves


@META_ARCH_REGISTRY.register()
class RCNN(nn.Module):
    """Classifies warped regions: by a softmax while the network is fine-tuned, and then by one linear SVM per class.

    :class:`RegionStages` makes the SVMs and the corrections of boxes at the end of the training; they are buffers.

    Args:
        backbone: Gives maps by name.
        neck: From these maps to (N, neck.channels).
        sampler: The host's region heads without layers; labels and draws the regions of a step.
        pixel_mean, pixel_std: Of each channel.
        input_format: "BGR" or "RGB".
        crop_size: Pixels of a crop's side.
        context: Pixels of a crop around the box.
        score_thresh: Least score, which is the sigmoid of an SVM's.
        nms_thresh: Of suppression within a class.
        detections_per_image: Best ones that are kept.
        search: Arguments of :func:`search_objects` for pictures that come without proposals.
        stages: Of the training after the fine-tuning.
    """

    output_kinds = ("instances",)
    searches_pictures = True

    pixel_mean: Tensor
    pixel_std: Tensor
    svm_weight: Tensor
    svm_bias: Tensor
    feature_scale: Tensor
    ridge_weight: Tensor
    ridge_bias: Tensor
    has_svms: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        sampler: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str,
        crop_size: int,
        context: int,
        score_thresh: float,
        nms_thresh: float,
        detections_per_image: int,
        search: Mapping[str, Any],
        stages: StageSettings,
    ) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.neck: Any = neck
        self.sampler: Any = sampler
        classes: Any = sampler.num_classes
        channels: Any = neck.channels
        self.region_classifier = nn.Linear(channels, classes + 1)
        nn.init.normal_(self.region_classifier.weight, std=0.01)
        nn.init.zeros_(self.region_classifier.bias)
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("svm_weight", torch.zeros(classes, channels))
        self.register_buffer("svm_bias", torch.zeros(classes))
        self.register_buffer("feature_scale", torch.ones(()))
        self.register_buffer("ridge_weight", torch.zeros(classes, 4, channels))
        self.register_buffer("ridge_bias", torch.zeros(classes, 4))
        self.register_buffer("has_svms", torch.zeros((), dtype=torch.bool))
        warp_regions(torch.zeros(1, 1, 1), torch.zeros(0, 4), crop_size, context)  # refuses what does not fit
        self.crop_size, self.context, self.input_format = crop_size, context, input_format
        self.score_thresh, self.nms_thresh, self.detections_per_image = score_thresh, nms_thresh, detections_per_image
        self._search, self._stages = dict(search), stages
        self._coder = Box2BoxTransform(weights=_WEIGHTS)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        keys, backbone = cfg.MODEL.RCNN, build_backbone(cfg)
        if cfg.MODEL_EMA.ENABLED or cfg.TEST.EARLY_STOPPING:
            raise ValueError(
                "RCNN makes its SVMs of the features of the last step's weights: MODEL_EMA.ENABLED must be False and "
                "TEST.EARLY_STOPPING 0."
            )
        return {
            "backbone": backbone,
            "neck": CLASSIFICATION_NECK_REGISTRY.get(cfg.MODEL.CLASSIFIER.NECK)(cfg, backbone.output_shape()),
            "sampler": ROIHeads(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "crop_size": keys.CROP_SIZE,
            "context": keys.CONTEXT,
            "score_thresh": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "nms_thresh": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "search": {
                "method": keys.SEARCH.METHOD,
                "width": keys.SEARCH.WIDTH,
                "least": keys.SEARCH.LEAST,
                "count": cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST,
            },
            "stages": StageSettings.from_config(cfg),
        }

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.pixel_mean.device

    def training_hooks(self) -> list[Any]:
        """The stages after the fine-tuning.

        Raises:
            ValueError: scikit-learn is missing.
        """
        check_scikit_learn()
        return [RegionStages(self, self._stages)]

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Fine-tunes or predicts.

        Args:
            batched_inputs: Per image a dict with ``image`` (C, H, W), maybe ``proposals``, maybe ``height`` and
                ``width``, the frame of the results; in training ``proposals`` and ``instances``.

        Returns:
            In training ``{"loss_cls": scalar}``. Else per image ``{"instances": Instances}``.
        """
        if self.training:
            return {"loss_cls": self._loss(batched_inputs)}
        return [self._predict(item) for item in batched_inputs]

    def normalised(self, item: Mapping[str, Any]) -> Tensor:
        """The picture (C, H, W) of an input, normalised."""
        return (item["image"].to(self.device) - self.pixel_mean) / self.pixel_std

    def propose(self, item: Mapping[str, Any]) -> Tensor:
        """The proposed boxes (R, 4) of an input: those that it brings, else those of a search in its picture.

        Raises:
            ImportError: OpenCV lacks its contributed modules, and there are no proposals.
        """
        if "proposals" in item:
            return item["proposals"].proposal_boxes.tensor.to(self.device)
        picture = item["image"].permute(1, 2, 0).cpu().numpy().astype(np.uint8)
        picture = picture if self.input_format == "BGR" else picture[:, :, ::-1]
        return torch.from_numpy(search_objects(np.ascontiguousarray(picture), **self._search)[0]).to(self.device)

    def features(self, picture: Tensor, boxes: Tensor) -> Tensor:
        """Features (R, D) of the regions of a normalised picture (C, H, W), some crops at a time."""
        parts = [self._of_crops(picture, some) for some in boxes.split(_AT_ONCE)]
        return torch.cat(parts) if parts else boxes.new_zeros(0, self.neck.channels)

    def score(self, features: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (R, K + 1) between 0 and 1, and a box of each region for all classes (R, 4) or for each (R, 4 K)."""
        if not self.has_svms:
            return self.region_classifier(features).float().softmax(dim=1), boxes
        scaled = features.float() * self.feature_scale
        margins = F.linear(scaled, self.svm_weight, self.svm_bias)
        corrections = torch.einsum("rd,kcd->rkc", scaled, self.ridge_weight) + self.ridge_bias
        placed = self._coder.apply_deltas(corrections.flatten(1), boxes.float())
        return F.pad(margins.sigmoid(), (0, 1)), placed

    def suppress(self, scores: Tensor, placed: Tensor, size: tuple[int, int]) -> Instances:
        """The detections of a picture (height, width): scores above the least, suppression in each class, the best."""
        limits = (self.score_thresh, self.nms_thresh, self.detections_per_image)
        return fast_rcnn_inference([placed], [scores], [size], *limits)[0][0]

    def corrections(self, boxes: Tensor, objects: Tensor) -> Tensor:
        """The targets (N, 4) that move boxes (N, 4) onto objects (N, 4)."""
        return self._coder.get_deltas(boxes, objects)

    def _of_crops(self, picture: Tensor, boxes: Tensor) -> Tensor:
        crops = warp_regions(picture, boxes, self.crop_size, self.context)
        divisor = self.backbone.size_divisibility or 1
        side = math.ceil(self.crop_size / divisor) * divisor
        return self.neck(self.backbone(F.pad(crops, (0, side - self.crop_size) * 2)))

    def _loss(self, batch: list[dict[str, Any]]) -> Tensor:
        if any("proposals" not in item for item in batch):
            raise ValueError("RCNN learns from proposals: set MODEL.LOAD_PROPOSALS and DATASETS.PROPOSAL_FILES_TRAIN.")
        proposals = [item["proposals"].to(self.device) for item in batch]
        objects = [item["instances"].to(self.device) for item in batch]
        sampled = self.sampler.label_and_sample_proposals(proposals, objects)
        features = [
            self._of_crops(self.normalised(item), regions.proposal_boxes.tensor)
            for item, regions in zip(batch, sampled)
            if len(regions)
        ]
        if not features:
            return self.region_classifier.weight.sum() * 0
        logits = self.region_classifier(torch.cat(features)).float()
        return F.cross_entropy(logits, torch.cat([regions.gt_classes for regions in sampled]))

    def _predict(self, item: dict[str, Any]) -> dict[str, Instances]:
        size = tuple(item["image"].shape[-2:])
        boxes = Boxes(self.propose(item))
        boxes.clip(size)
        kept = boxes.tensor[boxes.nonempty()]
        found = self.suppress(*self.score(self.features(self.normalised(item), kept), kept), size)
        frame = item.get("height", size[0]), item.get("width", size[1])
        return {"instances": detector_postprocess(found, *frame)}
