"""Interface of backbones, and the registry that builds one from ``MODEL.BACKBONE.NAME``."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from densekit.runtime.config import CfgNode
from densekit.runtime.layers import ShapeSpec
from densekit.runtime.utils.registry import Registry


class Backbone(nn.Module, ABC):
    """Maps images (N, C, H, W) to a dict of feature maps.

    A subclass fills ``_out_features`` (the names, finest first) and the tables ``_out_feature_channels`` and
    ``_out_feature_strides``, or overrides :meth:`output_shape`.
    """

    _out_features: list[str]
    _out_feature_channels: dict[str, int]
    _out_feature_strides: dict[str, int]

    @abstractmethod
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the feature maps by name, each (N, channels, H / stride, W / stride)."""

    @property
    def size_divisibility(self) -> int:
        """Number that input height and width must be a multiple of; 0 if any size will do."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Further wishes on padding: ``size_divisibility`` and ``square_size`` (0: no square), in pixels."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each returned feature map."""
        channels, strides = self._out_feature_channels, self._out_feature_strides
        return {name: ShapeSpec(channels=channels[name], stride=strides[name]) for name in self._out_features}


def known_stride(name: str, shape: ShapeSpec) -> int:
    """The stride of a feature map.

    Raises:
        ValueError: Its shape does not tell.
    """
    if shape.stride is None:
        raise ValueError(f"The stride of feature map {name!r} must be known, got {shape}.")
    return shape.stride


BACKBONE_REGISTRY = Registry("BACKBONE")
BACKBONE_REGISTRY.__doc__ = (
    """Called as ``obj(cfg, input_shape)`` with the ShapeSpec of the image; returns a Backbone."""
)


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """Builds ``cfg.MODEL.BACKBONE.NAME``.

    Args:
        cfg: The whole config.
        input_shape: Shape of the input; an image with as many channels as ``MODEL.PIXEL_MEAN`` if None.

    Raises:
        TypeError: What is registered under that name does not return a :class:`Backbone`.
    """
    name = cfg.MODEL.BACKBONE.NAME
    backbone = BACKBONE_REGISTRY.get(name)(cfg, input_shape or ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))
    if not isinstance(backbone, Backbone):
        raise TypeError(f"MODEL.BACKBONE.NAME={name!r} built a {type(backbone).__name__}; it must subclass Backbone.")
    return backbone
