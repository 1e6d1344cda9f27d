"""RetinaNet's head: "Focal Loss for Dense Object Detection" (arXiv:1708.02002), section 4.

Shape shorthand: N images, A anchors per location, Hi, Wi size of the i-th feature map, C its channels, K classes.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from densekit.runtime.config import CfgNode, configurable
from densekit.runtime.layers import ShapeSpec, get_norm
from densekit.runtime.modeling.anchor_generator import build_anchor_generator


class RetinaNetHead(nn.Module):
    """Two stacks of 3x3 convolutions, for classes and for boxes, that all maps share.

    With a batch norm each map has statistics of its own, and all share scale and shift.

    Args:
        input_shape: Shape of each feature map.
        num_classes: K.
        num_anchors: A.
        conv_dims: Channels of the hidden convolutions.
        norm: Norm behind each of these.
        prior_prob: Score that every class of every anchor starts with.

    Raises:
        ValueError: The maps differ in channels, or there are no hidden convolutions.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: list[ShapeSpec],
        num_classes: int,
        num_anchors: int,
        conv_dims: list[int],
        norm: str = "",
        prior_prob: float = 0.01,
    ) -> None:
        super().__init__()
        widths = {shape.channels for shape in input_shape}
        if len(widths) != 1:
            raise ValueError(f"RetinaNetHead is shared by all feature maps; they have {widths} channels.")
        if not conv_dims:
            raise ValueError("MODEL.RETINANET.NUM_CONVS is 0; RetinaNetHead needs at least one convolution.")
        self._num_features = len(input_shape)
        cls_layers: list[nn.Module] = []
        box_layers: list[nn.Module] = []
        for in_channels, channels in zip([input_shape[0].channels, *conv_dims], conv_dims):
            for layers in (cls_layers, box_layers):
                layers.append(_conv(in_channels, channels))
                layers.extend(self._norm(norm, channels))
                layers.append(nn.ReLU())
        self.cls_subnet = nn.Sequential(*cls_layers)
        self.bbox_subnet = nn.Sequential(*box_layers)
        self.cls_score = _conv(conv_dims[-1], num_anchors * num_classes)
        self.bbox_pred = _conv(conv_dims[-1], num_anchors * 4)
        for part in (self.cls_subnet, self.bbox_subnet, self.cls_score, self.bbox_pred):
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(cast(Tensor, self.cls_score.bias), -math.log((1 - prior_prob) / prior_prob))  # section 4.1

    def _norm(self, name: str, channels: int) -> list[nn.Module]:
        if name in ("BN", "SyncBN"):
            return [_NormOfEachMap(nn.BatchNorm2d if name == "BN" else nn.SyncBatchNorm, channels, self._num_features)]
        norm = get_norm(name, channels)
        return [] if norm is None else [norm]

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        keys = cfg.MODEL.RETINANET
        generator: Any = build_anchor_generator(cfg, input_shape)
        num_anchors = set(generator.num_anchors)
        if len(num_anchors) != 1:
            raise ValueError(
                f"MODEL.ANCHOR_GENERATOR gives the maps {sorted(num_anchors)} anchors per location; RetinaNet's head "
                "is shared by all maps and needs the same number on each."
            )
        return {
            "input_shape": input_shape,
            "num_classes": keys.NUM_CLASSES,
            "num_anchors": num_anchors.pop(),
            "conv_dims": [input_shape[0].channels] * keys.NUM_CONVS,
            "norm": keys.NORM,
            "prior_prob": keys.PRIOR_PROB,
        }

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits (N, A * K, Hi, Wi) and box deltas (N, A * 4, Hi, Wi) of each map (N, C, Hi, Wi).

        Raises:
            ValueError: There are more or fewer maps than were announced.
        """
        if len(features) != self._num_features:
            raise ValueError(f"RetinaNetHead was built for {self._num_features} feature maps and got {len(features)}.")
        logits = [self.cls_score(_run(self.cls_subnet, x, level)) for level, x in enumerate(features)]
        return logits, [self.bbox_pred(_run(self.bbox_subnet, x, level)) for level, x in enumerate(features)]


def _conv(in_channels: int | None, channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels or 0, channels, kernel_size=3, padding=1)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class _NormOfEachMap(nn.ModuleList):
    """A batch norm with statistics for each map of a pyramid, and scale and shift for all of them.

    "Rethinking 'Batch' in BatchNorm" (arXiv:2105.07576), section 5.2: maps of different strides are different domains.

    Args:
        kind: Class of batch norm.
        channels: C.
        count: How many maps.
    """

    def __init__(self, kind: type[nn.BatchNorm2d] | type[nn.SyncBatchNorm], channels: int, count: int) -> None:
        super().__init__(kind(channels, affine=False) for _ in range(count))
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, level: int) -> Tensor:
        """Normalises the map (N, C, Hi, Wi) of a level."""
        return self[level](x) * self.weight[:, None, None] + self.bias[:, None, None]


def _run(layers: nn.Sequential, x: Tensor, level: int) -> Tensor:
    for layer in layers:
        x = layer(x, level) if isinstance(layer, _NormOfEachMap) else layer(x)
    return x
