"""Detectron2's three functions of its model zoo, over the configurations that densekit brings along.

They are our own on both hosts: Detectron2's look into its own package only, with ``pkg_resources``, which setuptools
has dropped, and none of them knows densekit's keys.
"""

from torch import nn

from densekit.config import load_config
from densekit.config_files import nearest_shipped, shipped_config
from densekit.d2.config import CfgNode
from densekit.engine.loading import build_with_weights
from densekit.engine.setup import read_config
from densekit.run_options import RunOptions

__all__ = ["get", "get_config", "get_config_file"]


def get_config_file(config_path: str) -> str:
    """Returns the path of a shipped configuration.

    Args:
        config_path: Its name, ``<system>/<file>.yaml``.

    Raises:
        RuntimeError: There is none of that name, as in Detectron2; the message names the nearest.
    """
    if path := shipped_config(config_path):
        return path
    raise RuntimeError(f"{config_path} not available in Model Zoo!{nearest_shipped(config_path)}")


def get_config(config_path: str, trained: bool = False) -> CfgNode:
    """Returns a shipped configuration.

    Args:
        config_path: Its name.
        trained: Keeps MODEL.WEIGHTS of a file that names trained weights; densekit's files name what a training starts
            from, so that there is nothing to keep.

    Raises:
        RuntimeError: There is no such configuration, or ``trained`` asks for weights that nobody lists here.
    """
    path = get_config_file(config_path)
    if trained:
        raise RuntimeError(f"densekit lists no trained weights for {config_path}: set MODEL.WEIGHTS to their address.")
    return load_config(path)


def get(config_path: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Builds the model of a shipped configuration, in evaluation mode, with the weights that its training starts from.

    Args:
        config_path: Its name.
        trained: As of :func:`get_config`.
        device: MODEL.DEVICE; by default the configuration's, or the CPU where there is no CUDA device.

    Raises:
        RuntimeError: As of :func:`get_config`.
    """
    cfg = get_config(config_path, trained)
    opts = [] if device is None else ["MODEL.DEVICE", device]
    return build_with_weights(read_config(RunOptions(cfg=cfg, opts=opts))[0])
