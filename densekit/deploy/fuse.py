"""Norms with fixed statistics, folded into the convolutions before them."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, TypeGuard

from torch import nn

from densekit.d2.layers import BatchNorm2d, Conv2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from densekit.layers.folding import folded, plain_convolution

__all__ = ["fuse"]

# Subclasses do more than these (an activation, norms by turns) and run by themselves.
_NORMS = (nn.BatchNorm2d, BatchNorm2d, nn.SyncBatchNorm, NaiveSyncBatchNorm, FrozenBatchNorm2d)


def fuse(model: nn.Module) -> None:
    """Changes the modules of a model in evaluation mode, not its tensors.

    A module's own ``fuse`` is called where densekit has defined it; pairs in ``folds``, neighbours in an
    ``nn.Sequential`` and the host's convolutions that hold their norm become one convolution. Modules with hooks,
    parametrized ones and those of other packages stay as they are.

    Args:
        model: a copy, which is changed for good.
    """
    for module in list(model.modules()):
        if _is_own(module) and callable(getattr(type(module), "fuse", None)):
            if not any(_is_watched(part) for part in module.modules()):
                module.fuse()  # type: ignore[operator]
        elif type(module) is nn.Sequential:
            names = list(module._modules)
            _fold_pairs(module, pairwise(names))
        elif _is_own(module):
            _fold_pairs(module, getattr(type(module), "folds", ()))
        if isinstance(module, Conv2d):
            _take_in_norm(module)


def _is_own(module: nn.Module) -> bool:
    return type(module).__module__.startswith("densekit.")


def _fold_pairs(module: nn.Module, pairs: Iterable[tuple[str, str]]) -> None:
    """Replaces convolutions and the norms behind them; the convolution itself may serve elsewhere too."""
    for conv_name, norm_name in pairs:
        conv, norm = module._modules.get(conv_name), module._modules.get(norm_name)
        if _is_plain(conv) and _is_fixed(norm):
            weight, bias = folded(conv.weight, conv.bias, norm)
            setattr(module, conv_name, plain_convolution(weight, bias, conv))
            setattr(module, norm_name, nn.Identity())


def _take_in_norm(conv: nn.Conv2d) -> None:
    """Folds the norm that one of the host's convolutions holds."""
    weight_may_change = "weight" not in conv._parameters or conv._forward_pre_hooks  # parametrized, in one way or other
    if type(conv).forward is not Conv2d.forward or weight_may_change or not _is_fixed(conv.norm):
        return
    weight, bias = folded(conv.weight, conv.bias, conv.norm)
    like = conv.weight
    conv.weight = nn.Parameter(weight.detach().to(like.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.detach().to(like.dtype), requires_grad=False)
    conv.norm = None  # type: ignore[assignment]


def _is_plain(module: Any) -> TypeGuard[nn.Conv2d]:
    """Tells whether a module is a convolution and no more; the host's with neither norm nor activation is one."""
    if type(module) is Conv2d and (module.norm is not None or module.activation is not None):
        return False
    return type(module) in (nn.Conv2d, Conv2d) and not _is_watched(module)


def _is_fixed(module: Any) -> TypeGuard[nn.Module]:
    """Tells whether a module is a batch norm with statistics, which nobody listens to."""
    return type(module) in _NORMS and module.running_mean is not None and not _is_watched(module)


def _is_watched(module: nn.Module) -> bool:
    """Tells whether hooks get what a module takes or gives, or make its weights."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)
