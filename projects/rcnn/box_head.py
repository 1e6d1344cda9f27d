"""The box head of Fast R-CNN (arXiv 1504.08083): fully connected layers, truncated in inference."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import ROI_BOX_HEAD_REGISTRY
from densekit.d2.modeling.roi_heads import FastRCNNConvFCHead

from .truncated import TruncatedLinear


@ROI_BOX_HEAD_REGISTRY.register()
class TruncatedFCHead(FastRCNNConvFCHead):
    """The host's box head, whose linear layers keep some of their singular values in inference.

    Args:
        input_shape: shape of a pooled region.
        svd_ranks: singular values that each linear layer keeps; 0 keeps the layer. Empty keeps all layers.
        **kwargs: the host's other arguments.

    Raises:
        ValueError: there are not as many ranks as linear layers, or a rank is negative.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, svd_ranks: Sequence[int] = (), **kwargs: Any) -> None:
        super().__init__(input_shape, **kwargs)
        layers = {name: layer for name, layer in self.named_children() if isinstance(layer, nn.Linear)}
        if svd_ranks and (len(svd_ranks) != len(layers) or min(svd_ranks) < 0):
            raise ValueError(
                f"MODEL.FAST_RCNN.SVD_RANKS is {list(svd_ranks)}: give one number from 0 on for each of the "
                f"{len(layers)} linear layers (MODEL.ROI_BOX_HEAD.NUM_FC), or none."
            )
        self._truncated = {
            name: TruncatedLinear(layer, rank) for (name, layer), rank in zip(layers.items(), svd_ranks) if rank
        }

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Reads ``MODEL.ROI_BOX_HEAD`` and ``MODEL.FAST_RCNN``."""
        return {**super().from_config(cfg, input_shape), "svd_ranks": list(cfg.MODEL.FAST_RCNN.SVD_RANKS)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps regions (R, C, H, W) to features (R, D)."""
        if self.training or not self._truncated:
            return super().forward(x)
        for name, layer in self.named_children():
            x = self._truncated.get(name, layer)(x)
        return x
