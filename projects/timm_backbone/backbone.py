"""timm's networks in the host's slot of a backbone."""

import logging
from typing import Any

from torch import Tensor, nn

from densekit.d2.config import CfgNode, configurable
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import BACKBONE_REGISTRY, Backbone
from densekit.ops.packages import MissingPackageError
from densekit.weights.pixels import Pixels, mismatch

_INSTALL = "pip install 'densekit[timm]'"
_STRIDES = (2, 4, 8, 16, 32)


@BACKBONE_REGISTRY.register()
class TimmBackbone(Backbone):
    """Maps of a timm network by the logarithm of their stride: ``stage1`` (2) to ``stage5`` (32), where it has them.

    Parameters keep timm's names below ``network.``.

    Args:
        network: what ``timm.create_model(..., features_only=True, feature_cls="getter")`` returns.
        freeze_at: everything up to the map ``stage<freeze_at>`` is not trained; 0 trains all.
        freeze_norms: make constants of all batch norms.
    """

    @configurable
    def __init__(self, *, network: nn.Module, freeze_at: int = 0, freeze_norms: bool = False) -> None:
        super().__init__()
        if freeze_norms:
            from timm.layers import freeze_batch_norm_2d

            freeze_batch_norm_2d(network)
        self.network = network
        info: Any = network.feature_info
        strides, channels = info.reduction(), info.channels()
        # A plain vision transformer has every map at one stride; pyramids need a map for each.
        levels = {stride: index for index, stride in enumerate(strides) if stride in _STRIDES}
        self._maps = {f"stage{stride.bit_length() - 1}": index for stride, index in levels.items()}
        self._out_features = list(self._maps)
        self._out_feature_channels = {name: channels[index] for name, index in self._maps.items()}
        self._out_feature_strides = {name: strides[index] for name, index in self._maps.items()}
        if freeze_at:
            self._freeze(freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Reads ``MODEL.TIMM`` and ``MODEL.BACKBONE.FREEZE_AT``.

        Raises:
            ImportError: timm is not installed.
            ValueError: it has no such network, or that network cannot return maps.
        """
        keys = cfg.MODEL.TIMM
        network = _create(keys.NAME, keys.PRETRAINED, input_shape.channels or 3, keys.DROP_PATH)
        expected = network.model.pretrained_cfg
        mean, deviation = (tuple(round(255 * value, 3) for value in expected[key]) for key in ("mean", "std"))
        pixels = (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
        note = mismatch([Pixels("RGB", mean, deviation)], *pixels, f"timm's weights of {keys.NAME}")
        if note and (keys.PRETRAINED or cfg.MODEL.WEIGHTS):
            logging.getLogger(__name__).warning(note)
        return {"network": network, "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT, "freeze_norms": keys.FREEZE_NORMS}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the maps by name, each (N, channels, H / stride, W / stride), for images (N, C, H, W)."""
        maps = self.network(x)
        return {name: maps[index] for name, index in self._maps.items()}

    def _freeze(self, level: int) -> None:
        """Stops the training of everything up to a map, batch norms included."""
        name = f"stage{level}"
        if name not in self._maps:
            raise ValueError(
                f"MODEL.BACKBONE.FREEZE_AT is {level}, and this network has no map of stride {2**level}; it has "
                f"{', '.join(self._maps)}. 0 trains everything."
            )
        from timm.utils import freeze

        network: Any = self.network
        freeze(network.model, _up_to(network.model, network.feature_info.module_name()[self._maps[name]]))


def _up_to(model: nn.Module, last: str) -> list[str]:
    """Names of the outermost modules that end with ``last``, in the order of the forward pass."""
    chosen: list[str] = []
    for path, _ in model.named_modules():
        if path == last:
            return [*chosen, path]
        around = not path or last.startswith(f"{path}.")
        if not around and not any(path.startswith(f"{outer}.") for outer in chosen):
            chosen.append(path)
    raise ValueError(f"timm says that its maps come from {last!r}, which the network does not have.")


def _create(name: str, pretrained: bool, in_channels: int, drop_path: float) -> Any:
    try:
        import timm
    except ImportError as error:
        raise MissingPackageError(f"MODEL.BACKBONE.NAME TimmBackbone needs timm: {_INSTALL}") from error
    if name.split(".")[0] not in timm.list_models():
        near = timm.list_models(f"*{name[:6]}*")[:5]
        raise ValueError(f"MODEL.TIMM.NAME is {name!r}, which timm {timm.__version__} does not have. Near: {near}.")
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    if "swin" in name or name.startswith(("vit", "deit")):
        options["strict_img_size"] = False  # images of any size
    try:
        return timm.create_model(
            name, pretrained=pretrained, in_chans=in_channels, features_only=True, feature_cls="getter", **options
        )
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"MODEL.TIMM.NAME {name!r} cannot be a backbone: timm says {error}.") from error
