"""Base of heads for semantic segmentation: the slot's interface, losses and an auxiliary head.

Shapes: N images, C classes, H x W the scores of a head, whose pixels are ``stride`` image pixels wide.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.d2.config import CfgNode
from densekit.d2.layers import Conv2d, ShapeSpec, get_norm
from densekit.layers.pixel_losses import PixelLoss
from densekit.ops.precision import at_least_single

Features = Mapping[str, Tensor]
Losses = dict[str, Tensor]


class SemanticHead(nn.Module, ABC):
    """Scores the classes of every pixel; subclasses supply :meth:`layers`.

    Args:
        stride: Image pixels from one of the scores to the next.
        loss_weight: Factor of the loss.
        ignore_value: Label of pixels that stay out of the loss.
        loss_stride: Image pixels from one pixel with a loss to the next: 1, every pixel, where scores are interpolated
            as in inference, or ``stride``, every score as it is.
        auxiliary: A head on an earlier map that helps in training and is not used in inference, or None.
        align_corners: Whether scores are enlarged between the centres of the corner pixels, not between their edges.
        criterion: The loss of scores (N, C, ...) with labels (N, ...); None is :func:`mean_cross_entropy`.

    Attributes:
        follows_stride: Whether scores are enlarged by their stride and cut, which only the model around the head may
            change: it knows the size of the picture.
    """

    follows_stride = True

    def __init__(
        self,
        *,
        stride: int,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
        loss_stride: int = 1,
        auxiliary: "SemanticHead | None" = None,
        align_corners: bool = False,
        criterion: PixelLoss | None = None,
    ) -> None:
        super().__init__()
        if loss_stride not in (1, stride):
            raise ValueError(f"loss_stride={loss_stride} must be 1 or the stride of the scores, {stride}.")
        self.stride = stride
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        self.loss_stride = loss_stride
        self.auxiliary = auxiliary
        self.align_corners = align_corners
        self.criterion = criterion or PixelLoss(ignore_value=ignore_value, terms={"cross_entropy": 1.0})

    @abstractmethod
    def layers(self, features: Features) -> Tensor:
        """The scores (N, C, H, W) from the maps of a batch by name."""

    def forward(self, features: Features, targets: Tensor | None = None) -> tuple[Tensor | None, Losses]:
        """Trains or predicts.

        Args:
            features: Maps of the batch by name.
            targets: In training the labels of all pixels (N, height, width).

        Returns:
            In training None and the losses by name. Else scores (N, C, H * stride, W * stride), of which the image is
            the upper left part, and no losses.

        Raises:
            ValueError: There are no labels in training.
        """
        if not self.training:
            return enlarge(self.layers(features), self.stride, self.align_corners), {}
        if targets is None:
            raise ValueError(f"{type(self).__name__} needs labels in training; the inputs have no 'sem_seg'.")
        return None, self.scores_and_losses(features, targets)[1]

    def scores_and_losses(self, features: Features, targets: Tensor) -> tuple[Tensor, Losses]:
        """The scores of :meth:`layers` and the losses with labels (N, height, width), the auxiliary head's too."""
        scores = self.layers(features)
        losses = self.losses(scores, targets)
        if self.auxiliary is not None:
            auxiliary = self.auxiliary.losses(self.auxiliary.layers(features), targets)
            losses |= {f"{name}_auxiliary": loss for name, loss in auxiliary.items()}
        return scores, losses

    def losses(self, predictions: Tensor, targets: Tensor) -> Losses:
        """The loss of the scores of :meth:`layers` with labels (N, height, width); not the auxiliary head's."""
        return {"loss_sem_seg": self.loss_weight * self.loss(predictions, targets, self.criterion)}

    def loss(self, predictions: Tensor, targets: Tensor, criterion: nn.Module) -> Tensor:
        """A criterion of scores (N, C, H, W) with labels (N, height, width), where :attr:`loss_stride` wants it."""
        scores = at_least_single(predictions)
        if self.loss_stride == 1:
            scores = self._at_pixels(scores, targets.shape[-2:])
        else:
            targets = _thin_labels(targets, scores.shape[-2:], self.stride, self.ignore_value)
        return criterion(scores, targets)

    def _at_pixels(self, scores: Tensor, size: Sequence[int]) -> Tensor:
        """The scores at every pixel of a batch of (height, width) ``size``."""
        # Between the corners of the images, whose sides need not be multiples of the stride.
        if self.align_corners or not self.follows_stride:
            return F.interpolate(scores, size=tuple(size), mode="bilinear", align_corners=self.align_corners)
        return enlarge(scores, self.stride)[..., : size[0], : size[1]]


def scores_and_losses(head: Any, features: Features, targets: Tensor) -> tuple[Tensor, Losses]:
    """As :meth:`SemanticHead.scores_and_losses`, of any head with ``layers`` and ``losses``, such as the host's."""
    if isinstance(head, SemanticHead):
        return head.scores_and_losses(features, targets)
    scores = head.layers(features)
    return scores, head.losses(scores, targets)


def enlarge(x: Tensor, factor: int, align_corners: bool = False) -> Tensor:
    """(N, C, H, W) to (N, C, H * factor, W * factor), bilinear, with half-pixel centres unless corners are aligned."""
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=align_corners)


def at_finest(maps: Sequence[Tensor], align_corners: bool = False) -> Tensor:
    """Maps (N, Ci, Hi, Wi), finest first, side by side at the size of the first: (N, sum of Ci, H0, W0), bilinear."""
    size = maps[0].shape[-2:]
    larger = (F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners) for x in maps[1:])
    return torch.cat([maps[0], *larger], dim=1)


def pad_labels(labels: Tensor, size: Sequence[int], ignore_value: int) -> Tensor:
    """Labels (N, height, width) with nothing to learn on the right and below, up to what the scores cover."""
    missing = [max(0, wanted - side) for wanted, side in zip(size, labels.shape[-2:])]
    return F.pad(labels, (0, missing[1], 0, missing[0]), value=ignore_value)


def _thin_labels(labels: Tensor, size: tuple[int, ...], stride: int, ignore_value: int) -> Tensor:
    """The labels nearest to the centres of the scores, (N, height, width) to (N, H, W)."""
    labels = pad_labels(labels, [stride * side for side in size], ignore_value)
    return labels[:, stride // 2 :: stride, stride // 2 :: stride]


def conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int, norm: str, *, stride: int = 1) -> Conv2d:
    """A convolution that keeps the size at stride 1, its norm, or else a bias, and ReLU."""
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )


def finest_first(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, ShapeSpec]:
    """The maps of ``MODEL.SEM_SEG_HEAD.IN_FEATURES`` by stride.

    Raises:
        ValueError: The backbone has no such map, or the finest does not have ``MODEL.SEM_SEG_HEAD.COMMON_STRIDE``.
    """
    node = cfg.MODEL.SEM_SEG_HEAD
    if missing := [name for name in node.IN_FEATURES if name not in input_shape]:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES names {', '.join(missing)}; the backbone {cfg.MODEL.BACKBONE.NAME} "
            f"returns {', '.join(input_shape)}."
        )
    shapes = sorted(
        ((name, input_shape[name]) for name in node.IN_FEATURES), key=lambda item: cast(int, item[1].stride)
    )
    if shapes[0][1].stride != node.COMMON_STRIDE:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE is {node.COMMON_STRIDE}, but {node.NAME} makes scores of the stride of "
            f"its finest map: {shapes[0][0]} has {shapes[0][1].stride}."
        )
    return dict(shapes)
