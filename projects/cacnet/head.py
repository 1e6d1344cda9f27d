"""CaC-Net's head on the last map of any backbone."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec, get_norm
from densekit.d2.modeling import SEM_SEG_HEADS_REGISTRY
from densekit.layers.conv_norm import ConvNorm
from densekit.modeling.fcn_head import classifier, head_options
from densekit.modeling.semantic_head import Features, SemanticHead

from .context import ContextAdaptiveConvolution


@SEM_SEG_HEADS_REGISTRY.register()
class CaCHead(SemanticHead):
    """Context-adaptive convolutions side by side, the mean of the map beside them, and a classifier.

    Args:
        input_shape: one map.
        channels: of the map that is re-weighted, and of every branch.
        num_classes: C.
        norm: name of the norms; with "" there are none.
        dropout: probability that a channel is dropped before the classifier.
        heads: how many modules there are.
        pooling: add the branch with the mean of the map.
        context: options of :class:`ContextAdaptiveConvolution`.
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
        heads: int = 2,
        pooling: bool = True,
        context: Mapping[str, int | bool | Sequence[int]] | None = None,
        **options: Any,
    ) -> None:
        if len(input_shape) != 1:
            raise ValueError(f"CaCHead looks at one map; MODEL.SEM_SEG_HEAD.IN_FEATURES names {list(input_shape)}.")
        ((in_feature, shape),) = input_shape.items()
        super().__init__(stride=shape.stride or 1, **options)
        self.in_feature = in_feature
        make_norm = partial(_norm, norm)
        self.reduce = ConvNorm(shape.channels or 1, channels, 3, norm=make_norm, activation=nn.ReLU())
        extra: dict[str, Any] = dict(context or {})
        self.contexts = nn.ModuleList(
            ContextAdaptiveConvolution(channels, norm=make_norm, **extra) for _ in range(heads)
        )
        # Not normalised: a batch of one has one value per channel here.
        self.pooled = nn.Conv2d(channels, channels, 1) if pooling else None
        self.project = ConvNorm((heads + pooling) * channels, channels, 3, norm=make_norm, activation=nn.ReLU())
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = classifier(channels, num_classes)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Reads ``MODEL.SEM_SEG_HEAD`` and ``MODEL.CACNET``."""
        keys = cfg.MODEL.CACNET
        return {
            **head_options(cfg, input_shape),
            "dropout": cfg.MODEL.SEM_SEG_HEAD.DROPOUT,
            "heads": keys.HEADS,
            "pooling": keys.POOLING,
            "context": {
                "kernel": keys.KERNEL,
                "dilations": keys.DILATIONS,
                "shared": keys.SHARED_KERNELS,
                "softmax": keys.SOFTMAX,
                "sigmoid_first": keys.SIGMOID_FIRST,
            },
        }

    def layers(self, features: Features) -> Tensor:
        """Returns the scores (N, C, H, W) of the map's size."""
        x = self.reduce(features[self.in_feature])
        branches = [context(x) for context in self.contexts]
        if self.pooled is not None:
            branches.append(self.pooled(x.mean(dim=(2, 3), keepdim=True)).relu().expand_as(x))
        return self.predictor(self.dropout(self.project(torch.cat(branches, dim=1))))


def _norm(name: str, channels: int) -> nn.Module:
    return get_norm(name, channels) or nn.Identity()
