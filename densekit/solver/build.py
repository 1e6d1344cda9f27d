"""From ``cfg.SOLVER`` to an optimizer."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from densekit.d2.config import CfgNode
from densekit.d2.solver.build import maybe_add_gradient_clipping
from densekit.d2.utils.registry import Registry
from densekit.solver.clipping import Clipping
from densekit.solver.groups import parameter_groups

__all__ = ["OPTIMIZER_REGISTRY", "build_optimizer", "complete_state", "phase_config"]

OPTIMIZER_REGISTRY = Registry("OPTIMIZER")
OPTIMIZER_REGISTRY.__doc__ = """
What ``SOLVER.OPTIMIZER`` may name: called with ``cfg.SOLVER``, the parameter groups, the model, and as keywords
``lr``, ``weight_decay`` and the kernels, ``fused`` or ``foreach``. One that ignores the kernels steps where the host
has seen that the gradients are finite. An optimizer that rescales gradients does so in its ``step()``, before its
parent's; the norm in the metrics and the clipping are those before.
"""


@OPTIMIZER_REGISTRY.register()
def SGD(  # noqa: N802 - the names that configs use
    solver: CfgNode, groups: list[dict[str, Any]], model: nn.Module, **common: Any
) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **common)


@OPTIMIZER_REGISTRY.register()
def AdamW(  # noqa: N802
    solver: CfgNode, groups: list[dict[str, Any]], model: nn.Module, **common: Any
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay, arXiv 1711.05101."""
    return torch.optim.AdamW(groups, betas=tuple(solver.BETAS), **common)


@OPTIMIZER_REGISTRY.register()
def Adam(  # noqa: N802
    solver: CfgNode, groups: list[dict[str, Any]], model: nn.Module, **common: Any
) -> torch.optim.Optimizer:
    """Adam, arXiv 1412.6980; its weight decay is an L2 penalty."""
    return torch.optim.Adam(groups, betas=tuple(solver.BETAS), **common)


def build_optimizer(
    cfg: CfgNode, model: nn.Module, parameters: Collection[nn.Parameter] | None = None
) -> torch.optim.Optimizer:
    """Builds the optimizer ``SOLVER.OPTIMIZER`` over trainable parameters of ``model``.

    It clips by the host's types of ``CLIP_GRADIENTS.CLIP_TYPE`` itself; ``"full_model"`` is left to the training loop,
    which knows the norm of all gradients: :class:`Clipping`.

    Args:
        cfg: the config.
        model: the model.
        parameters: which of its parameters; None for all that are trainable.

    Raises:
        ValueError: there is no optimizer of that name.
    """
    solver = cfg.SOLVER
    if solver.OPTIMIZER not in OPTIMIZER_REGISTRY:
        known = ", ".join(sorted(name for name, _ in OPTIMIZER_REGISTRY))
        raise ValueError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; it can be one of {known}.")
    groups = parameter_groups(cfg, model, parameters)
    # Fused kernels can leave a step out without asking the host; sharded parameters do without them.
    fused = all(type(value.data) is torch.Tensor and value.is_cuda for group in groups for value in group["params"])
    kernels = {"fused": True} if fused else {"foreach": True}
    make = OPTIMIZER_REGISTRY.get(solver.OPTIMIZER)
    optimizer = make(solver, groups, model, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, **kernels)
    if Clipping.from_config(cfg) is None:
        optimizer = maybe_add_gradient_clipping(cfg, optimizer)
    complete_state(optimizer)
    return optimizer


def phase_config(cfg: CfgNode, changes: Mapping[str, Any], where: str) -> CfgNode:
    """Returns the config with some keys of its SOLVER changed, for one phase of a training step.

    Args:
        cfg: the config.
        changes: key below ``SOLVER``, such as ``"BASE_LR"`` or ``"CLIP_GRADIENTS.ENABLED"`` -> value.
        where: they were asked for, for the message.

    Raises:
        ValueError: SOLVER has no such key, or a value of another type.
    """
    if not changes:
        return cfg
    changed = cfg.clone()
    changed.defrost()
    try:
        changed.SOLVER.merge_from_list([part for pair in changes.items() for part in pair])
    except (AssertionError, KeyError, ValueError) as error:
        raise ValueError(f"{where}: SOLVER cannot be changed by {dict(changes)}: {error}") from error
    changed.freeze()
    return changed


def complete_state(optimizer: torch.optim.Optimizer) -> None:
    """Gives fused SGD the momenta that it would allocate in its first step.

    torch does not fill them if that step is left out because of gradients that are not finite, and the next one would
    read whatever the memory held. A momentum of zero makes the same first step.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["fused"] and group["momentum"] else ():
            state = optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)
