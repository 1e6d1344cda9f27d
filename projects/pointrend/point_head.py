"""The slot of the point head: what ``MODEL.POINT_HEAD.NAME`` may name."""

from collections.abc import Mapping
from typing import Any

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec
from densekit.d2.utils.registry import Registry

from .point_mlp import ImplicitPointMLP, PointMLP

POINT_HEAD_REGISTRY = Registry("DENSEKIT_POINT_HEAD")
POINT_HEAD_REGISTRY.__doc__ = """
Point heads. An entry is called as ``entry(cfg, input_shape, coarse_channels)`` with the channels of the maps at a point
and those of the coarse prediction.
"""


def build_point_head(cfg: CfgNode, input_shape: Mapping[str, Any], coarse_channels: int) -> Any:
    """The point head named by ``MODEL.POINT_HEAD.NAME``.

    Args:
        cfg: the config.
        input_shape: of all maps; points see ``MODEL.POINT_HEAD.IN_FEATURES``.
        coarse_channels: of the coarse prediction.
    """
    channels = sum(input_shape[name].channels for name in cfg.MODEL.POINT_HEAD.IN_FEATURES)
    return POINT_HEAD_REGISTRY.get(cfg.MODEL.POINT_HEAD.NAME)(cfg, ShapeSpec(channels=channels), coarse_channels)


def _common(node: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
    return {
        "in_channels": input_shape.channels,
        "out_channels": 1 if node.CLS_AGNOSTIC_MASK else node.NUM_CLASSES,
        "fc_dim": node.FC_DIM,
        "num_fc": node.NUM_FC,
    }


@POINT_HEAD_REGISTRY.register()
class StandardPointHead(PointMLP):
    """:class:`PointMLP` from a config."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec, coarse_channels: int) -> dict[str, Any]:
        node = cfg.MODEL.POINT_HEAD
        return {
            **_common(node, input_shape),
            "coarse_channels": coarse_channels,
            "coarse_each_layer": node.COARSE_PRED_EACH_LAYER,
        }


@POINT_HEAD_REGISTRY.register()
class ImplicitPointHead(ImplicitPointMLP):
    """:class:`ImplicitPointMLP` from a config."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec, coarse_channels: int) -> dict[str, Any]:
        node = cfg.MODEL.IMPLICIT_POINTREND
        return {
            **_common(cfg.MODEL.POINT_HEAD, input_shape),
            "image_features": node.IMAGE_FEATURE_ENABLED,
            "positions": node.POS_ENC_ENABLED,
        }
