"""bfloat16 in the layers that cost: features in, features out; what predicts and what follows it is in float32."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["reduce_precision"]

# Parts of models that compute features, by names from Detectron2's interfaces; lists of modules by their members.
_FEATURES = re.compile(
    r"(.+\.)?("
    r"backbone|res5|rpn_head\.conv|(cls|bbox)_subnet(\.\d+)?|box_head(\.\d+)?|sem_seg_head"
    r"|transformer(\.(encoder|decoder))?"
    r"|levels\.\d+\.(stem|class_conv|box_conv)|mask_head\.(mask_fcn\d+|deconv)|keypoint_head\.conv_fcn\d+"
    r")"
)
# The last layers in these, whose outputs become scores, which would fall on a few hundred values.
_PREDICTIONS = re.compile(r"(.+\.)?(predictor|classifier|class_embed|bbox_embed)(\.\d+)?")


def reduce_precision(model: nn.Module, dtype: torch.dtype) -> None:
    """Makes the parts of a model that compute features do it in ``dtype``; their outputs stay float32.

    Args:
        model: a copy in evaluation mode; its modules are changed, not its tensors.
        dtype: torch.bfloat16.
    """
    device = next(model.parameters()).device.type
    parts = [part for name, part in model.named_modules() if _FEATURES.fullmatch(name)]
    for part in parts:
        if isinstance(part, nn.ModuleList):
            continue
        for name, module in part.named_modules():
            if _PREDICTIONS.fullmatch(name) and not isinstance(module, nn.ModuleList):
                module.forward = _Computed(module.forward, device, None)
        part.forward = _Computed(part.forward, device, dtype)


@dataclass(frozen=True)
class _Computed:
    """A module's ``forward`` in another precision; an object, so that copies of the module call their own.

    Attributes:
        forward: the module's.
        device: its type.
        dtype: of the convolutions and matrices; None for float32, from inputs to outputs.
    """

    forward: Callable[..., Any]
    device: str
    dtype: torch.dtype | None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.dtype is None:
            args, kwargs = _as_float(args), _as_float(kwargs)
        with torch.autocast(self.device, dtype=self.dtype, enabled=self.dtype is not None):
            outputs = self.forward(*args, **kwargs)
        return _as_float(outputs)


def _as_float(values: Any) -> Any:
    """Returns nested lists, tuples and dictionaries with all reduced tensors in float32."""
    if isinstance(values, Tensor):
        return values.float() if values.dtype is torch.bfloat16 else values
    if isinstance(values, dict):
        return {key: _as_float(value) for key, value in values.items()}
    return type(values)(map(_as_float, values)) if type(values) in (list, tuple) else values
