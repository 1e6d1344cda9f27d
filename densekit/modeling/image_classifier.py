"""A classifier of whole images on any backbone, to train a backbone on one's own pictures before it detects in others.

N: images, K: classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import MixUp

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import META_ARCH_REGISTRY, build_backbone
from densekit.d2.structures import ImageList
from densekit.d2.utils.registry import Registry

__all__ = ["CLASSIFICATION_NECK_REGISTRY", "ImageClassifier", "MeanOfMap"]

# From the config and the shapes of the backbone's maps to a module: the maps by name -> (N, ``channels``).
CLASSIFICATION_NECK_REGISTRY = Registry("CLASSIFICATION_NECK")


class MeanOfMap(nn.Module):
    """The mean of one map over its pixels, as most networks classify.

    Args:
        in_feature: Name of the map.
        channels: Its channels.
    """

    def __init__(self, *, in_feature: str, channels: int) -> None:
        super().__init__()
        self.in_feature, self.channels = in_feature, channels

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Returns (N, channels)."""
        return features[self.in_feature].mean(dim=(2, 3))


@CLASSIFICATION_NECK_REGISTRY.register()
def build_mean_of_map(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> MeanOfMap:
    """The mean of the coarsest map of the backbone."""
    name = max(input_shape, key=lambda name: input_shape[name].stride or 0)
    return MeanOfMap(in_feature=name, channels=input_shape[name].channels or 0)


@META_ARCH_REGISTRY.register()
class ImageClassifier(nn.Module):
    """Scores of the classes of whole images: a backbone, a neck that makes a vector, and a linear layer.

    Args:
        backbone: Gives maps by name.
        neck: From these maps to (N, neck.channels).
        num_classes: K.
        pixel_mean, pixel_std: Of each channel.
        label_smoothing: Share of the target that all classes have in equal parts (arXiv 1512.00567, section 7).
        mixup: Alpha of the mixing of images in training ("mixup", arXiv 1710.09412, equation 1); 0 mixes nothing.
    """

    output_kinds = ("class_scores",)
    learns_image_classes = True

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
    ) -> None:
        super().__init__()
        if num_classes < 1 or not 0 <= label_smoothing < 1 or mixup < 0:
            raise ValueError(
                f"MODEL.CLASSIFIER has NUM_CLASSES {num_classes}, LABEL_SMOOTHING {label_smoothing} and MIXUP {mixup}; "
                "there is a class at least, the smoothing is a share below 1, and 0 mixes nothing."
            )
        self.backbone: Any = backbone
        self.neck: Any = neck
        channels: Any = neck.channels
        self.classifier = nn.Linear(channels, num_classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.label_smoothing = label_smoothing
        self._mix = MixUp(alpha=mixup, num_classes=num_classes) if mixup else None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        keys, backbone = cfg.MODEL.CLASSIFIER, build_backbone(cfg)
        return {
            "backbone": backbone,
            "neck": CLASSIFICATION_NECK_REGISTRY.get(keys.NECK)(cfg, backbone.output_shape()),
            "num_classes": keys.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "label_smoothing": keys.LABEL_SMOOTHING,
            "mixup": keys.MIXUP,
        }

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Trains or scores.

        Args:
            batched_inputs: Per image a dict with ``image`` (C, H, W), and in training ``category_id``.

        Returns:
            In training ``{"loss_cls": scalar}``. Else per image ``{"class_scores": (K,)}``, which add up to 1.
        """
        images = [(item["image"].to(self.device) - self.pixel_mean) / self.pixel_std for item in batched_inputs]
        batch = ImageList.from_tensors(images, self.backbone.size_divisibility).tensor
        if self.training:
            classes = torch.tensor([item["category_id"] for item in batched_inputs], device=self.device)
            return {"loss_cls": self.loss(batch, classes)}
        return [{"class_scores": scores} for scores in self.logits(batch).softmax(dim=1)]

    def logits(self, images: Tensor) -> Tensor:
        """Scores (N, K) before the softmax of normalised images (N, C, H, W), in full precision."""
        return self.classifier(self.neck(self.backbone(images))).float()

    def loss(self, images: Tensor, classes: Tensor) -> Tensor:
        """The cross-entropy for normalised images and their classes (N,); of mixed ones, that with both in shares."""
        targets = classes
        if self._mix is not None:  # the random numbers are torch's on the CPU, whose state a checkpoint holds
            images, targets = self._mix(images, classes)
        logits = self.logits(images)
        if targets.is_floating_point():
            targets = targets.to(logits.dtype)
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.CLASSIFIER`` to ``cfg``."""
    node = cfg.MODEL.CLASSIFIER = CfgNode()
    node.NECK = "build_mean_of_map"  # from the backbone's maps to a vector; a backbone of its own kind brings its own
    node.NUM_CLASSES = 1000  # classes of a picture; the training data set it
    node.LABEL_SMOOTHING = 0.0  # share of the target that all classes have in equal parts; 0.1 is usual
    node.MIXUP = 0.0  # alpha of mixup (arXiv 1710.09412), 0.2 to 0.8; 0: images are not mixed
