"""From a configuration to upsampling layers, and the keys of those that have any."""

from collections.abc import Callable
from functools import partial
from typing import Any

from densekit.d2.config import CfgNode
from densekit.layers import UPSAMPLERS, Upsampler, build_upsampler


def add_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.CARAFE``, the hyper-parameters of that layer wherever a key names it."""
    cfg.MODEL.CARAFE = CfgNode()
    cfg.MODEL.CARAFE.UP_KERNEL = 5  # k_up, side of the reassembly window
    cfg.MODEL.CARAFE.UP_GROUP = 1  # runs of channels with a kernel of their own; the paper has one
    # The side of the content encoder's convolution; the paper's rule is k_up - 2.
    cfg.MODEL.CARAFE.ENCODER_KERNEL = 3  # k_encoder
    cfg.MODEL.CARAFE.ENCODER_DILATION = 1  # of the same convolution
    cfg.MODEL.CARAFE.COMPRESSED_CHANNELS = 64  # C_m behind the channel compressor; 0 leaves the compressor out
    cfg.MODEL.CARAFE.NORMALIZER = "softmax"  # of a kernel's weights: softmax, sigmoid or sigmoid_normalized


def upsampler_from_config(cfg: CfgNode, key: str) -> Callable[[int], Upsampler]:
    """The maker of the upsampling layers that a key names.

    Args:
        cfg: has ``key`` and, for ``"carafe"``, the node ``MODEL.CARAFE``.
        key: full name of a key that holds a name of :data:`densekit.layers.UPSAMPLERS`.

    Returns:
        A function from a number of channels to a new layer that doubles the size.

    Raises:
        ValueError: The key holds no such name.
    """
    name: Any = cfg
    for part in key.split("."):
        name = name[part]
    if name not in UPSAMPLERS:
        raise ValueError(f"{key} is {name!r}; it must be one of {', '.join(UPSAMPLERS)}.")
    return partial(build_upsampler, name, **(_carafe_options(cfg.MODEL.CARAFE) if name == "carafe" else {}))


def _carafe_options(node: CfgNode) -> dict[str, Any]:
    return {
        "up_kernel": node.UP_KERNEL,
        "up_group": node.UP_GROUP,
        "encoder_kernel": node.ENCODER_KERNEL,
        "encoder_dilation": node.ENCODER_DILATION,
        "compressed_channels": node.COMPRESSED_CHANNELS,
        "normalizer": node.NORMALIZER,
    }
