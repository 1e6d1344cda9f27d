"""The keypoint branch: one heat map per keypoint and region. Mask R-CNN, https://arxiv.org/abs/1703.06870, section 5.

Shapes: B regions of all images, K keypoints, S x S heat-map bins.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from densekit.runtime.config import CfgNode, configurable
from densekit.runtime.layers import Conv2d, ConvTranspose2d, ShapeSpec, cat, interpolate
from densekit.runtime.structures import Instances, heatmaps_to_keypoints
from densekit.runtime.utils.events import get_event_storage
from densekit.runtime.utils.registry import Registry

ROI_KEYPOINT_HEAD_REGISTRY = Registry("ROI_KEYPOINT_HEAD")
ROI_KEYPOINT_HEAD_REGISTRY.__doc__ = """
Keypoint heads. An entry is called as ``entry(cfg, input_shape)`` with the ShapeSpec of pooled region features and
returns a module like :class:`BaseKeypointRCNNHead`.
"""


def keypoint_rcnn_loss(
    pred_keypoint_logits: torch.Tensor, instances: Sequence[Instances], normalizer: float | None
) -> torch.Tensor:
    """Cross-entropy over the S * S bins of each visible keypoint inside its proposal, summed, over the normalizer.

    Args:
        pred_keypoint_logits: (B, K, S, S).
        instances: per image the proposals, B in all, with "proposal_boxes" and "gt_keypoints".
        normalizer: the divisor; None for the number of visible keypoints.

    Returns:
        A scalar; 0, with a gradient path, if no keypoint is visible.
    """
    side = pred_keypoint_logits.shape[2]
    encoded = [x.gt_keypoints.to_heatmap(x.proposal_boxes.tensor, side) for x in instances if len(x) > 0]
    if encoded:
        target = cat([bins.flatten() for bins, _ in encoded])
        visible = cat([valid.flatten() for _, valid in encoded]).nonzero(as_tuple=True)[0]
    if not encoded or visible.numel() == 0:
        _count_skipped()
        return pred_keypoint_logits.sum() * 0
    logits = pred_keypoint_logits.flatten(0, 1).flatten(1)  # (B * K, S * S)
    loss = F.cross_entropy(logits[visible], target[visible], reduction="sum")
    return loss / (visible.numel() if normalizer is None else normalizer)


def _count_skipped() -> None:
    """Counts, in the event storage, the batches without a keypoint to learn from."""
    storage, name = get_event_storage(), "kpts_num_skipped_batches"
    before = storage.latest().get(name, (0, 0))[0]
    storage.put_scalar(name, before + 1, smoothing_hint=False)


def keypoint_rcnn_inference(pred_keypoint_logits: torch.Tensor, pred_instances: Sequence[Instances]) -> None:
    """Sets "pred_keypoints" (Ri, K, 3: x, y in image pixels, score) and "pred_keypoint_heatmaps" (Ri, K, S, S).

    Args:
        pred_keypoint_logits: (B, K, S, S).
        pred_instances: per image the detections, B in all, with "pred_boxes".
    """
    logits = pred_keypoint_logits.detach()
    boxes = cat([x.pred_boxes.tensor for x in pred_instances]).detach()
    keypoints = heatmaps_to_keypoints(logits, boxes)[:, :, [0, 1, 3]]  # x, y, logit, score without the logit
    sizes = [len(x) for x in pred_instances]
    for x, points, maps in zip(pred_instances, keypoints.split(sizes), logits.split(sizes)):
        x.pred_keypoints = points
        x.pred_keypoint_heatmaps = maps


class BaseKeypointRCNNHead(nn.Module):
    """Loss and inference of a keypoint head; a subclass gives :meth:`layers`.

    Args:
        num_keypoints: K.
        loss_weight: factor of the loss.
        loss_normalizer: the loss is divided by this times the number of images, or by the visible keypoints if it is
            "visible".

    Raises:
        ValueError: if the normalizer is another word.
    """

    @configurable
    def __init__(self, *, num_keypoints: int, loss_weight: float = 1.0, loss_normalizer: float | str = 1.0) -> None:
        super().__init__()
        if loss_normalizer != "visible" and not isinstance(loss_normalizer, float):
            raise ValueError(f"loss_normalizer is {loss_normalizer!r}: give a float or 'visible'")
        self.num_keypoints = num_keypoints
        self.loss_weight = loss_weight
        self.loss_normalizer = loss_normalizer

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        node, sampling = cfg.MODEL.ROI_KEYPOINT_HEAD, cfg.MODEL.ROI_HEADS
        normalizer: float | str = "visible"
        if not node.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS:
            # As many keypoints as an image has at most: all of its foreground samples with all points visible.
            normalizer = node.NUM_KEYPOINTS * sampling.BATCH_SIZE_PER_IMAGE * sampling.POSITIVE_FRACTION
        return {
            "num_keypoints": node.NUM_KEYPOINTS,
            "loss_weight": node.LOSS_WEIGHT,
            "loss_normalizer": normalizer,
        }

    def forward(self, x: torch.Tensor, instances: list[Instances]) -> dict[str, torch.Tensor] | list[Instances]:
        """The loss in training; in inference the same instances with "pred_keypoints".

        Args:
            x: region features (B, channels, H, W).
            instances: proposals with visible keypoints in training, detections in inference.
        """
        logits = self.layers(x)
        if self.training:
            normalizer = None if isinstance(self.loss_normalizer, str) else len(instances) * self.loss_normalizer
            return {"loss_keypoint": keypoint_rcnn_loss(logits, instances, normalizer) * self.loss_weight}
        keypoint_rcnn_inference(logits, instances)
        return instances

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """Heat-map logits (B, K, S, S) from region features."""
        raise NotImplementedError


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class KRCNNConvDeconvUpsampleHead(BaseKeypointRCNNHead, nn.Sequential):  # type: ignore[misc]
    """3x3 convolutions, a transposed one that doubles the size, then bilinear doubling.

    Args:
        input_shape: shape of a pooled region.
        num_keypoints: K.
        conv_dims: channels of each convolution.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_keypoints: int, conv_dims: Sequence[int], **kwargs: Any) -> None:
        super().__init__(num_keypoints=num_keypoints, **kwargs)
        channels: Any = input_shape.channels
        for i, width in enumerate(conv_dims, start=1):
            self.add_module(f"conv_fcn{i}", Conv2d(channels, width, kernel_size=3, padding=1))
            self.add_module(f"conv_fcn_relu{i}", nn.ReLU(inplace=True))
            channels = width
        self.score_lowres = ConvTranspose2d(channels, num_keypoints, kernel_size=4, stride=2, padding=1)
        self.up_scale = 2.0
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        return {
            **super().from_config(cfg, input_shape),
            "input_shape": input_shape,
            "conv_dims": cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS,
        }

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x)
        return interpolate(x, scale_factor=self.up_scale, mode="bilinear", align_corners=False)


def build_keypoint_head(cfg: CfgNode, input_shape: ShapeSpec | dict[str, ShapeSpec]) -> nn.Module:
    """The keypoint head named by ``MODEL.ROI_KEYPOINT_HEAD.NAME``."""
    return ROI_KEYPOINT_HEAD_REGISTRY.get(cfg.MODEL.ROI_KEYPOINT_HEAD.NAME)(cfg, input_shape)
