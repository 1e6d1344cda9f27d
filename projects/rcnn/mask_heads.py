"""Mask heads that Mask R-CNN (arXiv 1703.06870) compares its own with in Table 2: a softmax over classes, and an MLP.

R: regions of all images. C: mask channels, K classes or 1 if class-agnostic. M: pixels of a mask along a side.
"""

from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import ROI_MASK_HEAD_REGISTRY, BaseMaskRCNNHead
from densekit.d2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from densekit.d2.structures import Instances
from densekit.d2.utils.events import get_event_storage
from densekit.modeling.mask_logits import concat_classes, select_classes

__all__ = ["MLPMaskHead", "SoftmaxMaskHead", "softmax_mask_loss"]


def softmax_mask_loss(logits: Tensor, classes: Tensor, inside: Tensor) -> Tensor:
    """Mean cross-entropy of the region's class on the object, and of the background around it.

    The classes of a pixel exclude one another, as in semantic segmentation, which is what section 4.1 compares the
    independent masks with. The paper names no channel for pixels beside the object; they need one here.

    Args:
        logits: (R, C + 1, M, M), the background last.
        classes: (R,) in [0, K).
        inside: (R, M, M) bool, the pixels of the object.

    Returns:
        A scalar; 0, with a gradient path, if there are no regions.
    """
    if not len(logits):
        return logits.sum() * 0
    return F.cross_entropy(logits, _targets(logits, classes, inside))


def _targets(logits: Tensor, classes: Tensor, inside: Tensor) -> Tensor:
    """The channel of each pixel, (R, M, M)."""
    background = logits.shape[1] - 1
    own = torch.zeros_like(classes) if background == 1 else classes  # masks may be class-agnostic
    return torch.where(inside, own[:, None, None], background)


@ROI_MASK_HEAD_REGISTRY.register()
class SoftmaxMaskHead(MaskRCNNConvUpsampleHead):
    """The host's convolutional mask head, one channel wider, in whose pixels the classes compete.

    Args:
        input_shape: Of a pooled region.
        num_classes: C.
        **kwargs: The host's other arguments.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_classes: int, **kwargs: Any) -> None:
        super().__init__(input_shape, num_classes=num_classes + 1, **kwargs)

    def forward(  # type: ignore[override]
        self, x: Tensor, instances: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        """The loss in training; in inference the same instances with "pred_masks" (Ri, 1, M, M), probabilities.

        Args:
            x: Pooled regions (R, channels, H, W).
            instances: Per image foreground proposals with ground truth in training, detections in inference.
        """
        logits = self.layers(x)
        if self.training:
            return {"loss_mask": self._loss(logits, instances) * self.loss_weight}
        probabilities = logits.float().softmax(dim=1)[:, :-1]
        chosen = select_classes(probabilities, concat_classes(instances, "pred_classes"))[:, None]
        for one, masks in zip(instances, chosen.split([len(one) for one in instances])):
            one.pred_masks = masks
        return instances

    @staticmethod
    def _loss(logits: Tensor, instances: list[Instances]) -> Tensor:
        filled = [one for one in instances if len(one)]
        if not filled:
            return logits.sum() * 0
        side, classes = logits.shape[-1], concat_classes(filled, "gt_classes")
        masks = [one.gt_masks.crop_and_resize(one.proposal_boxes.tensor, side) for one in filled]
        inside = torch.cat(masks).to(logits.device)
        right = logits.detach().argmax(dim=1) == _targets(logits, classes, inside)
        get_event_storage().put_scalar("mask_rcnn/accuracy", right.float().mean().item())
        return softmax_mask_loss(logits, classes, inside)


@ROI_MASK_HEAD_REGISTRY.register()
class MLPMaskHead(BaseMaskRCNNHead):
    """Linear layers that give the whole mask at once, twice as fine as the pooled region (Table 2e).

    Args:
        input_shape: Of a pooled region, with its height and width.
        num_classes: C.
        fc_dims: Width of each hidden layer.
        **kwargs: See :class:`BaseMaskRCNNHead`.

    Raises:
        ValueError: The regions are not pooled to a size that is known.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_classes: int, fc_dims: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(input_shape, ShapeSpec) or not input_shape.height or input_shape.height != input_shape.width:
            raise ValueError("MLPMaskHead takes square pooled regions: set MODEL.ROI_MASK_HEAD.POOLER_TYPE.")
        self._pooled = (input_shape.channels, input_shape.height, input_shape.width)
        self._side, self._channels = 2 * input_shape.height, num_classes
        size: Any = (input_shape.channels or 0) * input_shape.height**2
        self.hidden = nn.Sequential()
        for number, width in enumerate(fc_dims, start=1):
            layer = nn.Linear(size, width)
            weight_init.c2_xavier_fill(layer)
            self.hidden.add_module(f"fc{number}", layer)
            self.hidden.add_module(f"relu{number}", nn.ReLU(inplace=True))
            size = width
        self.predictor = nn.Linear(size, num_classes * self._side**2)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Reads ``MODEL.ROI_MASK_HEAD``."""
        node = cfg.MODEL.ROI_MASK_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "input_shape": input_shape,
            "num_classes": 1 if node.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "fc_dims": [node.FC_DIM] * node.NUM_FC,
        }

    def layers(self, x: Tensor) -> Tensor:
        """Mask logits (R, C, M, M) of pooled regions (R, channels, H, W).

        Raises:
            ValueError: The regions are of another size than the layers were made for.
        """
        if tuple(x.shape[1:]) != self._pooled:
            raise ValueError(
                f"MLPMaskHead was made for regions of {self._pooled} and got {tuple(x.shape[1:])}. Res5ROIHeads makes "
                "them smaller than it says: set MODEL.ROI_HEADS.NAME StandardROIHeads."
            )
        return self.predictor(self.hidden(x.flatten(1))).view(-1, self._channels, self._side, self._side)
