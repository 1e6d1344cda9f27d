"""The mask branch: a small fully convolutional net per region. Mask R-CNN, https://arxiv.org/abs/1703.06870.

Shapes: B regions of all images, C mask channels (K classes, or 1 if class-agnostic), M x M mask pixels.
"""

from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from torch import nn

from densekit.runtime.config import CfgNode, configurable
from densekit.runtime.layers import Conv2d, ConvTranspose2d, ShapeSpec, cat
from densekit.runtime.layers.blocks import conv3x3_norm_relu
from densekit.runtime.structures import Instances
from densekit.runtime.utils.events import get_event_storage
from densekit.runtime.utils.registry import Registry

ROI_MASK_HEAD_REGISTRY = Registry("ROI_MASK_HEAD")
ROI_MASK_HEAD_REGISTRY.__doc__ = """
Mask heads. An entry is called as ``entry(cfg, input_shape)`` with the ShapeSpec of pooled region features and returns a
module like :class:`BaseMaskRCNNHead`.
"""


def _select_class(logits: torch.Tensor, classes: Sequence[torch.Tensor]) -> torch.Tensor:
    """The channel of each region's class, or the only one: (B, C, M, M) to (B, M, M)."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits[torch.arange(len(logits), device=logits.device), cat(list(classes))]


def mask_rcnn_loss(pred_mask_logits: torch.Tensor, instances: Sequence[Instances], vis_period: int = 0) -> torch.Tensor:
    """Mean binary cross-entropy of the ground-truth class's mask inside each proposal.

    Args:
        pred_mask_logits: (B, C, M, M).
        instances: per image the foreground proposals, B in all, with "proposal_boxes", "gt_classes" and "gt_masks".
        vis_period: every so many iterations predicted and true masks are put into the event storage; 0 for never.

    Returns:
        A scalar; 0, with a gradient path, if there are no proposals.

    Raises:
        ValueError: if the masks are not square.
    """
    side = pred_mask_logits.shape[2]
    if side != pred_mask_logits.shape[3]:
        raise ValueError(f"mask predictions must be square, got {tuple(pred_mask_logits.shape[2:])}")
    filled = [x for x in instances if len(x) > 0]
    if not filled:
        return pred_mask_logits.sum() * 0
    targets = cat([x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, side) for x in filled])
    targets = targets.to(pred_mask_logits.device)
    inside = targets if targets.dtype == torch.bool else targets > 0.5
    targets = targets.to(torch.float32)
    logits = _select_class(pred_mask_logits, [x.gt_classes for x in filled])
    _log_masks(logits.detach(), targets, inside, vis_period)
    return F.binary_cross_entropy_with_logits(logits, targets)


def _log_masks(logits: torch.Tensor, targets: torch.Tensor, inside: torch.Tensor, vis_period: int) -> None:
    """Pixel accuracy, and now and then the masks themselves, into the event storage."""
    wrong = (logits > 0) != inside
    # One transfer for the three counts.
    errors, missed, positive = torch.stack([wrong.sum(), (wrong & inside).sum(), inside.sum()]).tolist()
    total = wrong.numel()
    storage = get_event_storage()
    storage.put_scalar("mask_rcnn/accuracy", 1 - errors / max(total, 1.0))
    storage.put_scalar("mask_rcnn/false_positive", (errors - missed) / max(total - positive, 1.0))
    storage.put_scalar("mask_rcnn/false_negative", missed / max(positive, 1.0))
    if vis_period > 0 and storage.iter % vis_period == 0:
        pairs = torch.cat([logits.sigmoid(), targets], dim=2)
        for i, pair in enumerate(pairs):
            storage.put_image(f"Left: mask prediction;   Right: mask GT ({i})", pair.expand(3, -1, -1))


def mask_rcnn_inference(pred_mask_logits: torch.Tensor, pred_instances: Sequence[Instances]) -> None:
    """Sets "pred_masks" of each image: probabilities (Ri, 1, M, M) of the predicted class, in the box's frame.

    Args:
        pred_mask_logits: (B, C, M, M).
        pred_instances: per image the detections, B in all, with "pred_classes".
    """
    logits = _select_class(pred_mask_logits, [x.pred_classes for x in pred_instances])
    probabilities = logits.sigmoid()[:, None]
    for x, masks in zip(pred_instances, probabilities.split([len(x) for x in pred_instances])):
        x.pred_masks = masks


class BaseMaskRCNNHead(nn.Module):
    """Loss and inference of a mask head; a subclass gives :meth:`layers`.

    Args:
        loss_weight: factor of the loss.
        vis_period: see :func:`mask_rcnn_loss`.
    """

    @configurable
    def __init__(self, *, loss_weight: float = 1.0, vis_period: int = 0) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.vis_period = vis_period

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        return {"vis_period": cfg.VIS_PERIOD}

    def forward(self, x: torch.Tensor, instances: list[Instances]) -> dict[str, torch.Tensor] | list[Instances]:
        """The loss in training; in inference the same instances with "pred_masks".

        Args:
            x: region features (B, channels, H, W).
            instances: foreground proposals with ground truth in training, detections in inference.
        """
        logits = self.layers(x)
        if self.training:
            return {"loss_mask": mask_rcnn_loss(logits, instances, self.vis_period) * self.loss_weight}
        mask_rcnn_inference(logits, instances)
        return instances

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """Mask logits (B, C, M, M) from region features."""
        raise NotImplementedError


@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNConvUpsampleHead(BaseMaskRCNNHead, nn.Sequential):  # type: ignore[misc]
    """3x3 convolutions, a transposed one that doubles the size, and a 1x1 predictor (Figure 4 of the paper).

    The layers run in the order in which they are set, so that a subclass may insert its own.

    Args:
        input_shape: shape of a pooled region.
        num_classes: mask channels; 1 for class-agnostic masks.
        conv_dims: channels of each convolution, then of the transposed one.
        conv_norm: a name or callable for :func:`get_norm`.

    Raises:
        ValueError: if conv_dims is empty.
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, num_classes: int, conv_dims: Sequence[int], conv_norm: Any = "", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not conv_dims:
            raise ValueError(
                "conv_dims of a mask head is empty: it needs the channels of the upsampling layer at least"
            )
        self._has_norm = bool(conv_norm)
        channels: Any = input_shape.channels
        for i, width in enumerate(conv_dims[:-1], start=1):
            self.add_module(f"mask_fcn{i}", conv3x3_norm_relu(channels, width, conv_norm))
            channels = width
        self.deconv = ConvTranspose2d(channels, conv_dims[-1], kernel_size=2, stride=2)
        self.deconv_relu = nn.ReLU(inplace=True)
        self.predictor = Conv2d(conv_dims[-1], num_classes, kernel_size=1)
        weight_init.c2_msra_fill(self.deconv)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        node = cfg.MODEL.ROI_MASK_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "input_shape": input_shape,
            "num_classes": 1 if node.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "conv_dims": [node.CONV_DIM] * (node.NUM_CONV + 1),
            "conv_norm": node.NORM,
        }

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == "cpu" and not self._has_norm:
            # So the CPU's convolutions need no conversions between them. Norms with statistics lose digits that way.
            x = x.contiguous(memory_format=torch.channels_last)
        for layer in self:
            x = layer(x)
        return x


def build_mask_head(cfg: CfgNode, input_shape: ShapeSpec | dict[str, ShapeSpec]) -> nn.Module:
    """The mask head named by ``MODEL.ROI_MASK_HEAD.NAME``."""
    return ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.NAME)(cfg, input_shape)
