"""A vector that still knows places: means of the coarsest map over the cells of a grid."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from densekit.d2.config import CfgNode
from densekit.d2.layers import ShapeSpec
from densekit.modeling.image_classifier import CLASSIFICATION_NECK_REGISTRY

__all__ = ["GridOfMap"]


class GridOfMap(nn.Module):
    """Means over the cells of a grid on one map, one after the other.

    R-CNN corrects boxes by the features of its last pooled map, because a mean over all of it does not say at which
    side of the crop the object ends.

    Args:
        in_feature: Name of the map.
        channels: Its channels.
        cells: Along each side.
    """

    def __init__(self, *, in_feature: str, channels: int, cells: int) -> None:
        super().__init__()
        if cells < 1:
            raise ValueError(f"MODEL.RCNN.GRID is {cells}; a grid has one cell at least.")
        self.in_feature, self.cells = in_feature, cells
        self.channels = channels * cells**2

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Returns (N, channels)."""
        return F.adaptive_avg_pool2d(features[self.in_feature], self.cells).flatten(1)


@CLASSIFICATION_NECK_REGISTRY.register()
def build_grid_of_map(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> GridOfMap:
    """The grid of ``MODEL.RCNN.GRID`` on the coarsest map of the backbone."""
    name = max(input_shape, key=lambda name: input_shape[name].stride or 0)
    return GridOfMap(in_feature=name, channels=input_shape[name].channels or 0, cells=cfg.MODEL.RCNN.GRID)
