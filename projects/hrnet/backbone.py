"""HRNet in the host's slot for backbones: V1, V2 and V2p (arXiv 1908.07919, Figure 4)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import FrozenBatchNorm2d, ShapeSpec, get_norm
from densekit.d2.modeling import BACKBONE_REGISTRY, Backbone

from .network import HRNet, Stage
from .pyramid import HRFPN, concatenate

NAMES = ("res2", "res3", "res4", "res5")  # of the branches, as of the host's ResNets: stride 4 is res2


class HRNetBackbone(Backbone):
    """The branches of the last stage as maps of strides 4, 8, 16 and 32.

    Args:
        network: The network.
        out_features: Names of the maps to return.
        divisibility: What the sides of images are padded to multiples of; 0 for any size.
        norm_eval: Keep the running statistics of the norms as they are in training.
        freeze_at: How many parts do not learn, from the images on: 1 the stem, 2 the first stage as well, and so on.
    """

    @configurable
    def __init__(
        self,
        network: HRNet,
        *,
        out_features: list[str],
        divisibility: int = 32,
        norm_eval: bool = False,
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.norm_eval = norm_eval
        self._divisibility = divisibility
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(NAMES, network.channels))
        self._out_feature_strides = {name: 4 * 2**k for k, name in enumerate(NAMES)}
        _freeze(network, freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        node = cfg.MODEL.HRNET
        if not node.OUT_FEATURES or set(node.OUT_FEATURES) - set(NAMES):
            raise ValueError(
                f"MODEL.HRNET.OUT_FEATURES is {node.OUT_FEATURES}; it names one or more of {', '.join(NAMES)}."
            )
        return {
            "network": build_network(cfg, input_shape, 1 + max(map(NAMES.index, node.OUT_FEATURES))),
            "out_features": [name for name in NAMES if name in node.OUT_FEATURES],
            "divisibility": 4 * 2 ** (len(NAMES) - 1) if node.FUSE == "nearest" else 0,
            "norm_eval": node.NORM_EVAL,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    @property
    def size_divisibility(self) -> int:
        return self._divisibility

    def train(self, mode: bool = True) -> "HRNetBackbone":
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the maps by name for images (N, C, H, W)."""
        maps = dict(zip(NAMES, self.network(x)))
        return {name: maps[name] for name in self._out_features}


class HRNetV2Backbone(Backbone):
    """All branches side by side in one map of stride 4, ``concat``.

    Args:
        bottom_up: With all branches as outputs.
    """

    def __init__(self, bottom_up: HRNetBackbone) -> None:
        super().__init__()
        self.bottom_up = bottom_up
        self._out_features = ["concat"]
        self._out_feature_channels = {"concat": _all_channels(bottom_up)}
        self._out_feature_strides = {"concat": 4}

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"concat": concatenate(list(self.bottom_up(x).values()))}


class HRNetV2pBackbone(Backbone):
    """A feature pyramid ``p2`` to ``p6`` from all branches.

    Args:
        bottom_up: With all branches as outputs.
        pyramid: On them.
        out_channels: Of the pyramid.
    """

    def __init__(self, bottom_up: HRNetBackbone, pyramid: HRFPN, *, out_channels: int) -> None:
        super().__init__()
        self.bottom_up = bottom_up
        self.pyramid = pyramid
        self._out_features = [f"p{k + 2}" for k in range(len(pyramid.outputs))]
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._out_feature_strides = {name: 4 * 2**k for k, name in enumerate(self._out_features)}

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = self.pyramid(list(self.bottom_up(x).values()))
        return dict(zip(self._out_features, levels))


def build_network(cfg: CfgNode, input_shape: ShapeSpec, outputs: int = len(NAMES)) -> HRNet:
    """The network of ``MODEL.HRNET`` with so many outputs, the finest first."""
    node = cfg.MODEL.HRNET
    if len(node.CHANNELS) != len(NAMES) or len(node.MODULES) != len(NAMES) - 1:
        raise ValueError(
            f"MODEL.HRNET.CHANNELS is {node.CHANNELS} and MODEL.HRNET.MODULES is {node.MODULES}; they hold one number "
            "for each of 4 branches and of 3 stages."
        )
    stages = [
        Stage(modules, (node.BLOCKS,) * branches, tuple(node.CHANNELS[:branches]))
        for branches, modules in enumerate(node.MODULES, start=2)
    ]
    return HRNet(
        bottlenecks=node.BOTTLENECKS,
        bottleneck_channels=node.BOTTLENECK_CHANNELS,
        stages=stages,
        norm=norm_maker(node.NORM, node.BN_MOMENTUM),
        in_channels=input_shape.channels or 3,
        fuse=node.FUSE,
        align_corners=cfg.MODEL.SEM_SEG_HEAD.ALIGN_CORNERS,
        outputs=outputs,
        init=node.INIT,
    )


def norm_maker(name: str, momentum: float) -> Callable[[int], nn.Module]:
    """From channels to the host's norm of that name, with this momentum if it keeps running statistics.

    Raises:
        ValueError: There is no norm; the convolutions have no bias without one.
    """

    def make(channels: int) -> nn.Module:
        norm = get_norm(name, channels)
        if norm is None:
            raise ValueError("HRNet needs a norm, such as BN: its convolutions have no bias (MODEL.HRNET.NORM).")
        if isinstance(norm, _BatchNorm):
            norm.momentum = momentum
        return norm

    return make


def _freeze(network: HRNet, freeze_at: int) -> None:
    """Keeps the first parts as they are, with constants for norms."""
    parts = [["conv1", "bn1", "conv2", "bn2"], ["layer1"]]
    parts += [[f"transition{k}", f"stage{k + 1}"] for k in range(1, network.num_stages + 1)]
    for name in (name for names in parts[:freeze_at] for name in names):
        part = network.get_submodule(name)
        for parameter in part.parameters():
            parameter.requires_grad = False
        setattr(network, name, FrozenBatchNorm2d.convert_frozen_batchnorm(part))


def _all_channels(bottom_up: HRNetBackbone) -> int:
    return sum(shape.channels or 0 for shape in bottom_up.output_shape().values())


def _with_all_branches(cfg: CfgNode, input_shape: ShapeSpec) -> HRNetBackbone:
    node = cfg.MODEL.HRNET
    if sorted(node.OUT_FEATURES) != sorted(NAMES):
        raise ValueError(
            f"MODEL.HRNET.OUT_FEATURES is {node.OUT_FEATURES}; {cfg.MODEL.BACKBONE.NAME} needs {', '.join(NAMES)}."
        )
    return HRNetBackbone(cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_hrnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> HRNetBackbone:
    """The branches of ``MODEL.HRNET.OUT_FEATURES``; reads ``MODEL.HRNET`` and ``MODEL.BACKBONE.FREEZE_AT``."""
    return HRNetBackbone(cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_hrnet_v2_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> HRNetV2Backbone:
    """All branches in one map, ``concat``."""
    return HRNetV2Backbone(_with_all_branches(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_hrnet_v2p_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> HRNetV2pBackbone:
    """The pyramid ``p2`` to ``p6`` of width ``MODEL.FPN.OUT_CHANNELS``."""
    bottom_up, width = _with_all_branches(cfg, input_shape), cfg.MODEL.FPN.OUT_CHANNELS
    pyramid = HRFPN(in_channels=_all_channels(bottom_up), out_channels=width, pooling=cfg.MODEL.HRNET.PYRAMID_POOLING)
    return HRNetV2pBackbone(bottom_up, pyramid, out_channels=width)
