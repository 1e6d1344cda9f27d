"""The host's head of Semantic and Panoptic FPN (arXiv 1901.02446) with the losses of ``MODEL.SEM_SEG_HEAD.LOSS``."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import SEM_SEG_HEADS_REGISTRY
from densekit.d2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from densekit.layers.pixel_losses import PixelLoss
from densekit.modeling.semantic_losses import criterion_from_config


@SEM_SEG_HEADS_REGISTRY.register()
class SemanticFPNHead(SemSegFPNHead):
    """The host's head with any loss of pixels; a batch without labelled pixels has the loss 0 on both hosts.

    Args:
        input_shape: As of the host's.
        criterion: The loss.
        options: As of the host's.
    """

    @configurable
    def __init__(self, input_shape: dict[str, ShapeSpec], *, criterion: PixelLoss, **options: Any) -> None:
        super().__init__(input_shape, **options)
        self.criterion = criterion

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return {**super().from_config(cfg, input_shape), "criterion": criterion_from_config(cfg)}

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The loss of the scores of ``layers`` with labels (N, height, width)."""
        scores = F.interpolate(
            predictions.float(), scale_factor=float(self.common_stride), mode="bilinear", align_corners=False
        )
        return {"loss_sem_seg": self.criterion(scores, targets) * self.loss_weight}


def with_loss_keys(name: str) -> str:
    """The name of the head that reads ``MODEL.SEM_SEG_HEAD.LOSS``: :class:`SemanticFPNHead` for the host's."""
    return SemanticFPNHead.__name__ if name == SemSegFPNHead.__name__ else name


def take_loss_keys(cfg: CfgNode) -> None:
    """Makes a configuration that names the host's head, the default, take the one that reads the loss keys."""
    if cfg.MODEL.META_ARCHITECTURE in ("SemanticSegmentor", "ImageSizedSegmentor", "PanopticFPN"):
        cfg.MODEL.SEM_SEG_HEAD.NAME = with_loss_keys(cfg.MODEL.SEM_SEG_HEAD.NAME)
