"""Models as users name them: a run's folder, a configuration, or a checkpoint of a run."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from densekit.config_defaults import default_config
from densekit.config_files import find_config
from densekit.d2.config import CfgNode
from densekit.deploy.exported import is_exported, load_exported
from densekit.run_options import RunOptions

__all__ = ["RUN_CONFIG", "ModelSource", "weights_of_run", "with_model"]

ModelSource = str | os.PathLike[str] | CfgNode

RUN_CONFIG, _POINTER, _FINAL = "config.yaml", "last_checkpoint", "model_final.pth"
_WEIGHTS = {".pth", ".pkl", ".pyth", ".safetensors"}


def weights_of_run(folder: str | os.PathLike[str]) -> str:
    """Returns the last checkpoint of a run.

    Raises:
        FileNotFoundError: There is no such folder, or it has no checkpoint.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"RUN_DIR {folder} is no folder; give the OUTPUT_DIR of a training run.")
    pointer = folder / _POINTER
    path = folder / (pointer.read_text().strip() if pointer.is_file() else _FINAL)
    if not path.is_file():
        raise FileNotFoundError(
            f"RUN_DIR {folder} has no weights: {path} does not exist. Has the run saved a checkpoint yet? "
            "--weights FILE takes others."
        )
    return str(path)


def with_model(
    options: RunOptions,
    source: ModelSource,
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
) -> RunOptions:
    """Adds a model to the options of a run.

    Args:
        options: Without configuration.
        source: The OUTPUT_DIR of a run, with its last weights; a checkpoint, with the ``config.yaml`` beside it; a
            configuration file, the name of a shipped one, or a configuration, with its MODEL.WEIGHTS; or an exported
            file, which has its configuration inside.
        weights: A weight file instead; "" for random weights.
        device: MODEL.DEVICE; None for the configuration's.

    Raises:
        FileNotFoundError: Something of it does not exist.
        ValueError: An exported file is damaged, or gets weights or a device.
    """
    opts: list[Any] = []
    if isinstance(source, CfgNode):
        options = replace(options, cfg=source)
    elif is_exported(source):
        if weights is not None or device not in (None, "cpu"):
            raise ValueError(f"{source} has its weights inside and runs on the CPU: leave weights and device out.")
        options = replace(options, cfg=_config_inside(source))
        opts += ["MODEL.DEVICE", "cpu"]
    elif folder := _run_of(source):
        if weights is None:
            weights = weights_of_run(folder) if os.path.isdir(source) else source
        opts += ["OUTPUT_DIR", folder]
        options = replace(options, config_file=os.path.join(folder, RUN_CONFIG))
    else:
        options = replace(options, config_file=find_config(source))
    if weights is not None:
        opts += ["MODEL.WEIGHTS", os.fspath(weights)]
    if device is not None:
        opts += ["MODEL.DEVICE", device]
    return replace(options, opts=[*opts, *options.opts])


def _run_of(source: str | os.PathLike[str]) -> str:
    """The folder of the run that a source is or lies in; "" for a configuration."""
    folder, is_file = os.fspath(source), os.path.splitext(source)[1].lower() in _WEIGHTS
    if is_file:
        folder = os.path.dirname(folder) or os.curdir
    elif not os.path.isdir(folder):
        return ""
    if not os.path.isfile(os.path.join(folder, RUN_CONFIG)):
        remedy = "give the configuration that it belongs to, and the file as weights" if is_file else "give a run's"
        raise FileNotFoundError(f"{source}: there is no {RUN_CONFIG} in the folder {folder}; {remedy}.")
    return folder


def _config_inside(path: Any) -> CfgNode:
    """Returns the configuration that an exported file was made with, in which it stands in the model's place."""
    cfg = default_config()
    cfg.merge_from_other_cfg(CfgNode.load_cfg(load_exported(path).about["config"]))
    cfg.MODEL.EXPORTED = cfg.MODEL.WEIGHTS = str(path)
    return cfg
