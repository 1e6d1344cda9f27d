"""A few convolutions on one map: the head of "Fully Convolutional Networks" (arXiv 1411.4038), to help another one.

On an earlier map than the main head's it shortens the way of the gradient ("Pyramid Scene Parsing Network",
arXiv 1612.01105, section 3.3).
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from fvcore.nn import weight_init
from torch import Tensor, nn

from densekit.d2.config import CfgNode
from densekit.d2.layers import Conv2d, ShapeSpec
from densekit.modeling.semantic_head import Features, SemanticHead, conv_norm_relu, finest_first
from densekit.modeling.semantic_losses import auxiliary_criterion, criterion_from_config


class FCNHead(SemanticHead):
    """3x3 convolutions and a classifier on one map.

    Args:
        in_feature: Name of the map.
        in_channels: Its channels.
        channels: Of the convolutions.
        num_convs: How many there are.
        num_classes: C.
        norm: Norm behind the convolutions; with "" they have a bias instead.
        dropout: Probability that a channel is dropped before the classifier.
        options: As :class:`~densekit.modeling.semantic_head.SemanticHead`.
    """

    def __init__(
        self,
        *,
        in_feature: str,
        in_channels: int,
        channels: int,
        num_convs: int,
        num_classes: int,
        norm: str,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.in_feature = in_feature
        widths = [in_channels, *[channels] * num_convs]
        self.convs = nn.Sequential(*(conv_norm_relu(*pair, 3, norm) for pair in pairwise(widths)))
        for conv in self.convs:
            weight_init.c2_msra_fill(conv)
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = classifier(widths[-1], num_classes)

    def layers(self, features: Features) -> Tensor:
        return self.predictor(self.dropout(self.convs(features[self.in_feature])))


def classifier(channels: int, num_classes: int) -> Conv2d:
    """The last layer of a head, with scores that start close to 0."""
    layer = Conv2d(channels, num_classes, kernel_size=1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer


def add_config(cfg: CfgNode) -> None:
    """Adds the keys of ``MODEL.SEM_SEG_HEAD`` that the heads of :func:`head_options` read beside the host's."""
    node = cfg.MODEL.SEM_SEG_HEAD
    node.DROPOUT = 0.0  # probability that a channel is dropped before the classifier, of the auxiliary head's too
    node.AUXILIARY = CfgNode()  # a head on an earlier map that helps in training
    node.AUXILIARY.IN_FEATURE = ""  # its map, e.g. "res4"; "": no such head
    node.AUXILIARY.CONVS_DIM = 256  # channels
    node.AUXILIARY.NUM_CONV = 1  # 3x3 convolutions before the classifier
    node.AUXILIARY.LOSS_WEIGHT = 0.4  # of its loss, beside the main head's


def head_options(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec], *, align_corners: bool = False) -> dict[str, Any]:
    """Reads what every head on maps of the backbone takes from ``MODEL.SEM_SEG_HEAD``.

    Args:
        cfg: The config.
        input_shape: Maps of the backbone.
        align_corners: The convention of the head and of its auxiliary head, as of
            :class:`~densekit.modeling.semantic_head.SemanticHead`.

    Raises:
        ValueError: The backbone does not return what the head or its auxiliary head needs.
    """
    node = cfg.MODEL.SEM_SEG_HEAD
    return {
        "input_shape": finest_first(cfg, input_shape),
        "channels": node.CONVS_DIM,
        "num_classes": node.NUM_CLASSES,
        "norm": node.NORM,
        "loss_weight": node.LOSS_WEIGHT,
        "ignore_value": node.IGNORE_VALUE,
        "auxiliary": _auxiliary(cfg, input_shape, align_corners),
        "align_corners": align_corners,
        "criterion": criterion_from_config(cfg),
    }


def _auxiliary(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec], align_corners: bool) -> FCNHead | None:
    """The head of ``MODEL.SEM_SEG_HEAD.AUXILIARY``; None where that names no map.

    Raises:
        ValueError: The backbone does not return the map.
    """
    head, node = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.SEM_SEG_HEAD.AUXILIARY
    if not node.IN_FEATURE:
        return None
    if node.IN_FEATURE not in input_shape:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.AUXILIARY.IN_FEATURE is {node.IN_FEATURE!r}; the backbone {cfg.MODEL.BACKBONE.NAME} "
            f"returns {', '.join(input_shape)}."
        )
    shape: Any = input_shape[node.IN_FEATURE]
    return FCNHead(
        in_feature=node.IN_FEATURE,
        in_channels=shape.channels,
        channels=node.CONVS_DIM,
        num_convs=node.NUM_CONV,
        num_classes=head.NUM_CLASSES,
        norm=head.NORM,
        dropout=head.DROPOUT,
        stride=shape.stride,
        loss_weight=node.LOSS_WEIGHT,
        ignore_value=head.IGNORE_VALUE,
        criterion=auxiliary_criterion(cfg),
        align_corners=align_corners,
    )
