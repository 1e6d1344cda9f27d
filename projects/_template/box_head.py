"""The slot of the template: the thin class that the host builds from ``MODEL.ROI_BOX_HEAD.NAME``."""

from typing import Any

import torch
from torch import nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import ROI_BOX_HEAD_REGISTRY

from .pooled_mlp import PooledMLP


@ROI_BOX_HEAD_REGISTRY.register()
class TemplateBoxHead(nn.Module):
    """Box head that looks at the mean of a region only; cheap, and blind to where things are in it."""

    @configurable
    def __init__(self, *, in_channels: int, hidden_dim: int) -> None:
        """Builds the head for regions of ``in_channels`` channels."""
        super().__init__()
        self.mlp = PooledMLP(in_channels=in_channels, hidden_dim=hidden_dim)
        self.output_shape = ShapeSpec(channels=hidden_dim)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Reads ``MODEL.TEMPLATE``; below this line nothing knows a configuration."""
        return {"in_channels": input_shape.channels, "hidden_dim": cfg.MODEL.TEMPLATE.HIDDEN_DIM}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps pooled regions (N, C, H, W) to features (N, hidden_dim)."""
        return self.mlp(x)
