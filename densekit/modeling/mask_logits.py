"""Result of a mask head together with its logits, for systems that build on one.

Shapes: R regions of all images, C mask channels (K classes, or 1 if class-agnostic), M x M mask pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from densekit.d2.modeling.roi_heads.mask_head import BaseMaskRCNNHead, mask_rcnn_inference, mask_rcnn_loss
from densekit.d2.structures import Instances


def check_gives_logits(head: nn.Module) -> None:
    """Refuses a mask head that :func:`forward_with_logits` cannot run.

    Raises:
        ValueError: the head has neither the method nor the base class that it needs.
    """
    if not hasattr(head, "forward_with_logits") and type(head).forward is not BaseMaskRCNNHead.forward:
        raise ValueError(
            f"The mask head {type(head).__name__} keeps its logits to itself. Give it layers() below "
            "BaseMaskRCNNHead.forward, or a method forward_with_logits(x, instances) -> (forward's result, logits)."
        )


def forward_with_logits(head: Any, x: Any, instances: list[Instances]) -> tuple[Any, torch.Tensor]:
    """Runs a mask head once, as its ``forward`` would, and hands out the logits too.

    A head below ``BaseMaskRCNNHead`` needs nothing for this; one with a ``forward`` of its own offers a method
    ``forward_with_logits(x, instances)``.

    Args:
        head: the mask head.
        x: what its ``forward`` takes: pooled regions, or the dict of feature maps.
        instances: foreground proposals with ground truth in training, detections in inference.

    Returns:
        What ``forward`` returns (losses by name, or the instances with "pred_masks"), and logits (R, C, M, M).
    """
    if hasattr(head, "forward_with_logits"):
        return head.forward_with_logits(x, instances)
    logits = head.layers(x)
    if head.training:
        return {"loss_mask": mask_rcnn_loss(logits, instances, head.vis_period) * head.loss_weight}, logits
    mask_rcnn_inference(logits, instances)
    return instances, logits


def select_classes(values: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The channel of each region's class, (R, C, ...) to (R, ...); the only channel of class-agnostic ones."""
    if values.shape[1] == 1:
        return values[:, 0]
    return values[torch.arange(len(values), device=values.device), classes]


def concat_classes(instances: Sequence[Instances], field: str) -> torch.Tensor:
    """The classes of all images' instances, (R,) int64."""
    return torch.cat([x.get(field) for x in instances])
