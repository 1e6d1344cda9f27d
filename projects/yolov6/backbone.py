"""The slots of the network below the head: EfficientRep as a backbone, and a Rep-PAN on any backbone."""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor

from densekit.d2.config import CfgNode
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import BACKBONE_REGISTRY, Backbone

from .network import EfficientRep, RepPAN, body_options, neck_options

_STRIDES = (4, 8, 16, 32)


class EfficientRepBackbone(EfficientRep, Backbone):
    """EfficientRep with the interface of a backbone; its maps are c2, c3, c4 and c5, of stride 4 to 32."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._channels = list(options["channels"])[1:]

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Maps images (N, 3, H, W)."""
        return dict(zip(self.output_shape(), super().forward(x)))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            f"c{level}": ShapeSpec(channels=channels, stride=stride)
            for level, (channels, stride) in enumerate(zip(self._channels, _STRIDES), start=2)
        }

    @property
    def size_divisibility(self) -> int:
        return _STRIDES[-1]


class RepPANBackbone(Backbone):
    """A Rep-PAN on a backbone; its maps are p and the logarithm of their stride.

    Args:
        bottom_up: the backbone below.
        in_features: its maps to use, finest first, each of twice the stride of the one before.
        neck: for these maps.
    """

    def __init__(self, *, bottom_up: Backbone, in_features: Sequence[str], neck: RepPAN) -> None:
        super().__init__()
        self.bottom_up, self.neck, self._in_features = bottom_up, neck, list(in_features)
        shapes = bottom_up.output_shape()
        strides = [cast(int, shapes[name].stride) for name in in_features][-len(neck.out_channels) :]
        self._shapes = {
            f"p{stride.bit_length() - 1}": ShapeSpec(channels=channels, stride=stride)
            for channels, stride in zip(neck.out_channels, strides)
        }
        self._divisibility = max(strides)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps images (N, 3, H, W) whose sides are multiples of ``size_divisibility``."""
        features = self.bottom_up(x)
        return dict(zip(self._shapes, self.neck([features[name] for name in self._in_features])))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes

    @property
    def size_divisibility(self) -> int:
        return self._divisibility


@BACKBONE_REGISTRY.register()
def build_efficientrep_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> EfficientRepBackbone:
    """EfficientRep of the size that ``MODEL.YOLOV6`` says."""
    keys = cfg.MODEL.YOLOV6
    return EfficientRepBackbone(
        **body_options(depth=keys.DEPTH, width=keys.WIDTH, stage=keys.STAGE),
        stage=keys.STAGE,
        unit=keys.UNIT,
        expansion=keys.EXPANSION,
        pool=keys.POOL,
        in_channels=input_shape.channels or 3,
    )


@BACKBONE_REGISTRY.register()
def build_reppan_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> RepPANBackbone:
    """A Rep-PAN on the backbone ``MODEL.YOLOV6.BOTTOM_UP``, on its maps of stride 8, 16 and 32."""
    keys = cfg.MODEL.YOLOV6
    bottom_up = BACKBONE_REGISTRY.get(keys.BOTTOM_UP)(cfg, input_shape)
    wanted = _STRIDES[0 if keys.FINER else 1 :]
    by_stride = {shape.stride: name for name, shape in bottom_up.output_shape().items()}
    missing = [stride for stride in wanted if stride not in by_stride]
    if missing:
        raise ValueError(
            f"MODEL.YOLOV6.BOTTOM_UP {keys.BOTTOM_UP!r} has maps of stride {sorted(by_stride)}, and the neck also "
            f"needs {missing}: let the backbone give them (MODEL.RESNETS.OUT_FEATURES for a ResNet)"
            + (", or set MODEL.YOLOV6.FINER False." if missing == [_STRIDES[0]] else ".")
        )
    in_features = [by_stride[stride] for stride in wanted]
    neck = RepPAN(
        in_channels=[cast(int, bottom_up.output_shape()[name].channels) for name in in_features],
        **neck_options(depth=keys.DEPTH, width=keys.WIDTH, stage=keys.STAGE),
        stage=keys.STAGE,
        unit=keys.UNIT,
        expansion=keys.EXPANSION,
        finer=keys.FINER,
    )
    return RepPANBackbone(bottom_up=bottom_up, in_features=in_features, neck=neck)
