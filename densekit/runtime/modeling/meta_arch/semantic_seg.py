"""Semantic segmentation: the model around a head, and the head of "Panoptic FPN" (arXiv:1901.02446)."""

import math
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import Tensor, nn

from densekit.runtime.config import CfgNode, configurable
from densekit.runtime.layers import Conv2d, ShapeSpec
from densekit.runtime.layers.blocks import conv3x3_norm_relu
from densekit.runtime.modeling.backbone.backbone import known_stride
from densekit.runtime.modeling.meta_arch.build import META_ARCH_REGISTRY, ImageModel, output_size
from densekit.runtime.modeling.postprocessing import sem_seg_postprocess
from densekit.runtime.utils.registry import Registry

SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")
SEM_SEG_HEADS_REGISTRY.__doc__ = """Called as ``obj(cfg, input_shape)`` with the shapes of the features by name."""


def build_sem_seg_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Builds ``cfg.MODEL.SEM_SEG_HEAD.NAME`` for features of these shapes."""
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, input_shape)


@META_ARCH_REGISTRY.register()
class SemanticSegmentor(ImageModel):
    """A backbone and a head that scores the classes of every pixel.

    Args:
        sem_seg_head: From features and labels (N, H, W) or None to scores (N, C, H, W) and losses; it has an
            ``ignore_value``, which padding gets.
        kwargs: As :class:`~densekit.runtime.modeling.meta_arch.build.ImageModel`.
    """

    @configurable
    def __init__(self, *, sem_seg_head: nn.Module, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sem_seg_head: Any = sem_seg_head

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options = super().from_config(cfg)
        return options | {"sem_seg_head": build_sem_seg_head(cfg, options["backbone"].output_shape())}

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Trains or predicts.

        Args:
            batched_inputs: Per image a dict with ``image`` (C, H, W); in training ``sem_seg`` (H, W), the class of each
                pixel; ``height`` and ``width`` in pixels, the frame of the results.

        Returns:
            In training the losses by name. Else per image ``{"sem_seg": (C, height, width) scores}``.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        targets = None
        if "sem_seg" in batched_inputs[0]:
            targets = self._batch_sem_seg(batched_inputs, self.sem_seg_head.ignore_value)
        results, losses = self.sem_seg_head(features, targets)
        if self.training:
            return losses
        return [
            {"sem_seg": sem_seg_postprocess(result, size, *output_size(item, size))}
            for result, item, size in zip(results, batched_inputs, images.image_sizes)
        ]


@SEM_SEG_HEADS_REGISTRY.register()
class SemSegFPNHead(nn.Module):
    """Brings every pyramid level to one stride by convolutions and doublings, adds them up and scores the classes.

    Args:
        input_shape: Shape of each feature map to use.
        num_classes: Number of classes.
        conv_dims: Channels of the convolutions.
        common_stride: The stride at which the maps are added.
        loss_weight: Weight of the loss.
        norm: Norm behind the convolutions; without one they have a bias.
        ignore_value: Label of the pixels that stay out of the loss.

    Raises:
        ValueError: There is no feature map.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dims: int,
        common_stride: int,
        loss_weight: float = 1.0,
        norm: str | Callable[[int], nn.Module] | None = None,
        ignore_value: int = -1,
    ) -> None:
        super().__init__()
        if not input_shape:
            raise ValueError("SemSegFPNHead got no feature map; look at MODEL.SEM_SEG_HEAD.IN_FEATURES.")
        self.ignore_value = ignore_value
        self.common_stride = common_stride
        self.loss_weight = loss_weight
        strides = {name: known_stride(name, shape) for name, shape in input_shape.items()}
        self.in_features = sorted(strides, key=lambda name: strides[name])
        for name in self.in_features:
            doublings = int(math.log2(strides[name] / common_stride))
            layers: list[nn.Module] = []
            for index in range(max(1, doublings)):
                channels = input_shape[name].channels if index == 0 else conv_dims
                layers.append(conv3x3_norm_relu(channels, conv_dims, norm))
                if strides[name] != common_stride:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.add_module(name, nn.Sequential(*layers))
        self.predictor = Conv2d(conv_dims, num_classes, kernel_size=1)
        weight_init.c2_msra_fill(self.predictor)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        keys = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {name: shape for name, shape in input_shape.items() if name in keys.IN_FEATURES},
            "num_classes": keys.NUM_CLASSES,
            "conv_dims": keys.CONVS_DIM,
            "common_stride": keys.COMMON_STRIDE,
            "loss_weight": keys.LOSS_WEIGHT,
            "norm": keys.NORM,
            "ignore_value": keys.IGNORE_VALUE,
        }

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Returns ``(None, losses)`` in training, else ``(scores (N, C, H, W) at full resolution, {})``."""
        scores = self.layers(features)
        if self.training:
            if targets is None:
                raise ValueError("SemSegFPNHead needs labels in training; the inputs have no 'sem_seg'.")
            return None, self.losses(scores, targets)
        return self._to_full_resolution(scores), {}

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """The class scores (N, C, H / common_stride, W / common_stride)."""
        total: Tensor | None = None
        for name in self.in_features:
            scaled = self.get_submodule(name)(features[name])
            total = scaled if total is None else total + scaled
        return self.predictor(total)

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Mean cross-entropy of the scores of :meth:`layers` with labels (N, H, W), over the labelled pixels, or 0."""
        # In float32: the sum over a whole batch of pixels overflows half precision.
        scores = self._to_full_resolution(predictions.float())
        total = F.cross_entropy(scores, targets, reduction="sum", ignore_index=self.ignore_value)
        loss = total / (targets != self.ignore_value).sum().clamp(min=1)  # torch's own mean of nothing is NaN
        return {"loss_sem_seg": loss * self.loss_weight}

    def _to_full_resolution(self, scores: Tensor) -> Tensor:
        return F.interpolate(scores, scale_factor=self.common_stride, mode="bilinear", align_corners=False)
