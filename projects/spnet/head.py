"""SPNet's head: mixed pooling on the last map (section 3.3)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec, get_norm
from densekit.d2.modeling import SEM_SEG_HEADS_REGISTRY
from densekit.layers.conv_norm import ConvNorm
from densekit.modeling.fcn_head import head_options
from densekit.modeling.semantic_head import Features, Losses, SemanticHead

from .pooling import MixedPooling


@SEM_SEG_HEADS_REGISTRY.register()
class SPNetHead(SemanticHead):
    """Halves the channels of a map, pools it in mixed ways, and classifies.

    Args:
        input_shape: one map.
        channels: of the last convolution; mixed pooling works on twice as many.
        num_classes: C.
        norm: name of the norms.
        dropout: probability that a channel is dropped before the classifier.
        mixed_pooling: how many modules of it there are.
        grids: sides of their grids.
        options: as :class:`~densekit.modeling.semantic_head.SemanticHead`.

    Raises:
        ValueError: there is not exactly one map.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        channels: int = 512,
        num_classes: int,
        norm: str = "BN",
        dropout: float = 0.1,
        mixed_pooling: int = 2,
        grids: Sequence[int] = (20, 12),
        **options: Any,
    ) -> None:
        if len(input_shape) != 1:
            raise ValueError(f"SPNetHead looks at one map; MODEL.SEM_SEG_HEAD.IN_FEATURES names {list(input_shape)}.")
        ((in_feature, shape),) = input_shape.items()
        super().__init__(stride=shape.stride or 1, **options)
        self.in_feature = in_feature
        make_norm = partial(_norm, norm)
        wide = 2 * channels
        self.reduce = ConvNorm(shape.channels or 1, wide, 1, norm=make_norm, activation=nn.ReLU())
        self.pools = nn.Sequential(*(MixedPooling(wide, grids, norm=make_norm) for _ in range(mixed_pooling)))
        self.project = ConvNorm(wide, channels, 3, norm=make_norm, activation=nn.ReLU())
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = nn.Conv2d(channels, num_classes, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Reads ``MODEL.SEM_SEG_HEAD`` and ``MODEL.SPNET``."""
        return {
            **head_options(cfg, input_shape, align_corners=True),
            "dropout": cfg.MODEL.SEM_SEG_HEAD.DROPOUT,
            "mixed_pooling": cfg.MODEL.SPNET.MIXED_POOLING,
            "grids": cfg.MODEL.SPNET.POOL_GRIDS,
        }

    def forward(self, features: Features, targets: Tensor | None = None) -> tuple[Tensor | None, Losses]:
        """Trains or predicts as the other heads; scores are enlarged between the corners of images of 8k + 1 pixels."""
        if self.training:
            return super().forward(features, targets)
        return enlarge_between_corners(self.layers(features), self.stride), {}

    def layers(self, features: Features) -> Tensor:
        """Returns the scores (N, C, H, W) of the map's size."""
        return self.predictor(self.dropout(self.project(self.pools(self.reduce(features[self.in_feature])))))


def enlarge_between_corners(x: Tensor, factor: int) -> Tensor:
    """Enlarges (N, C, H, W) to (N, C, H * factor, W * factor), with the corners of the map and of its image aligned.

    The image has (H - 1) * factor + 1 pixels, as the authors' crops; what is right of them and below repeats the last.
    """
    size = [(side - 1) * factor + 1 for side in x.shape[-2:]]
    larger = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    return F.pad(larger, (0, factor - 1, 0, factor - 1), mode="replicate")


def _norm(name: str, channels: int) -> nn.Module:
    return get_norm(name, channels) or nn.Identity()
