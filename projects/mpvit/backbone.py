"""MPViT in the host's slot of a backbone."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec, get_norm
from densekit.d2.modeling import BACKBONE_REGISTRY, Backbone

from .network import MPViT, Size

_FEATURES = ("stage2", "stage3", "stage4", "stage5")


@BACKBONE_REGISTRY.register()
class MPViTBackbone(Backbone):
    """Maps of MPViT's four stages, of strides 4, 8, 16 and 32, for images of any size.

    Args:
        network: what computes them.
        out_features: names of those to return, of ``stage2`` to ``stage5``.

    Raises:
        ValueError: a name is not one of these.
    """

    @configurable
    def __init__(self, *, network: MPViT, out_features: Sequence[str]) -> None:
        super().__init__()
        unknown = [name for name in out_features if name not in _FEATURES]
        if unknown or not out_features:
            raise ValueError(f"MODEL.MPVIT.OUT_FEATURES is {list(out_features)}; it can name {', '.join(_FEATURES)}.")
        self.network = network
        self._out_features = [name for name in _FEATURES if name in out_features]
        self._out_feature_channels = dict(zip(_FEATURES, network.channels))
        self._out_feature_strides = {name: 4 << index for index, name in enumerate(_FEATURES)}

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Reads ``MODEL.MPVIT``."""
        keys = cfg.MODEL.MPVIT
        size = Size(
            num_path=tuple(keys.NUM_PATH),
            num_layers=tuple(keys.NUM_LAYERS),
            embed_dims=tuple(keys.EMBED_DIMS),
            mlp_ratios=tuple(keys.MLP_RATIOS),
            num_heads=tuple(keys.NUM_HEADS),
        )

        def norm(channels: int) -> nn.Module:
            return get_norm(keys.NORM, channels) or nn.Identity()

        network = MPViT(size, norm=norm, drop_path=keys.DROP_PATH, in_channels=input_shape.channels or 3)
        return {"network": network, "out_features": keys.OUT_FEATURES}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the maps by name, each (N, channels, ceil(H / stride), ceil(W / stride)), for images (N, C, H, W)."""
        maps = dict(zip(_FEATURES, self.network(x)))
        return {name: maps[name] for name in self._out_features}
