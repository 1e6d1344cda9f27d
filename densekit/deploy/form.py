"""The one way from a trained model to the form in which it predicts."""

import logging
from types import MethodType

import torch
from torch import nn

from densekit.d2.config import CfgNode
from densekit.deploy.copying import shared_copy
from densekit.deploy.exported import ExportedModel
from densekit.deploy.fuse import fuse as fuse_norms
from densekit.deploy.precision import reduce_precision
from densekit.ops.processor import computes_in_bfloat16
from densekit.ops.sharded import has_parts

__all__ = ["inference_form", "optimize"]

logger = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16")


def optimize(model: nn.Module, *, fuse: bool = True, channels_last: bool = True, dtype: str = "float32") -> nn.Module:
    """Returns a copy of a model that predicts the same in less time, and does not train.

    The model itself is not changed. What the copy has not changed it shares with it, so a model that is trained on
    needs a new copy. Its weights have other names and shapes: save those of the model.

    Args:
        model: any model of densekit or Detectron2, in evaluation mode.
        fuse: folds norms with fixed statistics into convolutions, and calls the modules' own ``fuse``.
        channels_last: keeps the channels of a pixel side by side, which the CPU's convolutions work in; not where a
            norm takes statistics of the maps, which is less exact in that order. With CUDA in bfloat16 only.
        dtype: "float32", or "bfloat16" for the layers that compute features, where the device computes in it; boxes,
            scores, suppression and masks stay in float32. It changes results in the third digit.

    Raises:
        ValueError: the model is in training mode, or there is no such dtype.
    """
    if model.training:
        raise ValueError(f"{type(model).__name__} is in training mode; call its eval() before optimize.")
    return _form(shared_copy(model), fuse, channels_last, _usable(dtype, model))


def inference_form(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Returns a model as ``MODEL.INFERENCE`` says: a copy in evaluation mode, or the model itself.

    The latter where nothing is asked for, and where no such copy can be made: the parameters are spread over the
    processes, or a module holds something that cannot be copied.

    Args:
        cfg: a configuration.
        model: any model, which may be in training.

    Raises:
        ValueError: MODEL.INFERENCE.DTYPE is unknown.
    """
    if isinstance(model, ExportedModel):
        return model
    keys = cfg.MODEL.INFERENCE
    dtype = _usable(keys.DTYPE, model)
    if not (keys.FUSE or keys.CHANNELS_LAST or dtype) or has_parts(model):
        return model
    try:
        copy = shared_copy(getattr(model, "module", model))
    except TypeError as error:
        logger.info(f"The model predicts as it is, since it cannot be copied: {error}.")
        return model
    return _form(copy, keys.FUSE, keys.CHANNELS_LAST, dtype)


def _form(copy: nn.Module, fuse: bool, channels_last: bool, dtype: torch.dtype | None) -> nn.Module:
    copy.eval()
    if fuse:
        fuse_norms(copy)
    if dtype is not None:
        reduce_precision(copy, dtype)
    if channels_last and (dtype is not None or _device(copy) == "cpu"):
        _keep_channels_last(copy)
    copy.train = MethodType(_refuse_training, copy)  # type: ignore[method-assign]
    return copy


def _usable(name: str, model: nn.Module) -> torch.dtype | None:
    """The dtype of a name where the device computes in it; None for float32."""
    if name not in DTYPES:
        raise ValueError(f"MODEL.INFERENCE.DTYPE is {name!r}; it can be {' or '.join(map(repr, DTYPES))}.")
    if name == "float32":
        return None
    on_cuda = _device(model) == "cuda"
    if torch.cuda.is_bf16_supported(including_emulation=False) if on_cuda else computes_in_bfloat16():
        return torch.bfloat16
    logger.warning("MODEL.INFERENCE.DTYPE: this device does not compute in bfloat16, and the model stays in float32.")
    return None


def _device(model: nn.Module) -> str:
    return next((parameter.device.type for parameter in model.parameters()), "cpu")


def _keep_channels_last(model: nn.Module) -> None:
    if any(isinstance(module, nn.GroupNorm | nn.InstanceNorm2d) for module in model.modules()):
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and "weight" in module._parameters:
            weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
            if weight.data_ptr() != module.weight.data_ptr():
                module.weight = nn.Parameter(weight, requires_grad=False)


def _refuse_training(model: nn.Module, mode: bool = True) -> nn.Module:
    if mode:
        raise ValueError(
            f"This {type(model).__name__} is optimized for inference and cannot be trained; train the model that it "
            "was made from, which is unchanged."
        )
    return type(model).train(model, False)
