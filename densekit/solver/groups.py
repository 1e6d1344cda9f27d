"""Parameter groups: the host's rules by the config, then what the modules of a model ask for their own parameters.

A module may have the method ``parameter_options(name, parameter) -> Mapping[str, float]``. It is asked for each
trainable parameter below it, with the name that the parameter has in the module, and returns entries of the parameter's
group: ``weight_decay``, ``momentum`` or any other that the optimizer or the schedule knows, and ``lr_factor``, which
multiplies the learning rate. Where several modules around a parameter answer, factors multiply and of other entries
that of the outermost counts.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn

from densekit.d2 import solver as host
from densekit.d2.config import CfgNode
from densekit.d2.solver.build import reduce_param_groups

__all__ = ["parameter_groups"]

Options = Callable[[str, nn.Parameter], Mapping[str, float]]


def parameter_groups(
    cfg: CfgNode, model: nn.Module, parameters: Collection[nn.Parameter] | None = None
) -> list[dict[str, Any]]:
    """Returns the groups of the trainable parameters, with equal settings joined.

    Args:
        cfg: the config.
        model: whose modules may have ``parameter_options``.
        parameters: which of them; None for all.

    Raises:
        ValueError: a module returns no mapping, or a factor or value that is no number.
    """
    solver = cfg.SOLVER
    groups = host.get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=lambda name: solver.BACKBONE_MULTIPLIER if "backbone" in name.split(".") else 1.0,
    )
    askers = [(name, module.parameter_options) for name, module in model.named_modules() if _asks(module)]
    if parameters is None and not askers and solver.WARMUP_BIAS_LR < 0:
        return groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    wanted = None if parameters is None else set(map(id, parameters))
    single = []
    for group in groups:
        for parameter in group["params"]:
            if wanted is None or id(parameter) in wanted:
                entries = {key: value for key, value in group.items() if key not in ("params", "param_names")}
                single.append({**_adapted(entries, names[parameter], parameter, askers, cfg), "params": [parameter]})
    return reduce_param_groups(single)


def _asks(module: nn.Module) -> bool:
    return callable(getattr(module, "parameter_options", None))


def _adapted(
    entries: dict[str, Any], name: str, parameter: nn.Parameter, askers: list[tuple[str, Options]], cfg: CfgNode
) -> dict[str, Any]:
    """The group's entries for one parameter: those of the host, of the config's warm-up, and of the modules."""
    if cfg.SOLVER.WARMUP_BIAS_LR >= 0 and name.rpartition(".")[2] == "bias":
        entries["warmup_lr"] = cfg.SOLVER.WARMUP_BIAS_LR
    factor = 1.0
    for prefix, options in reversed(askers):  # the outermost comes first in named_modules, and is to come last
        if prefix and not name.startswith(f"{prefix}."):
            continue
        own = dict(options(name.removeprefix(f"{prefix}.") if prefix else name, parameter))
        if bad := [key for key, value in own.items() if not isinstance(value, (int, float))]:
            raise ValueError(f"parameter_options of {prefix or 'the model'}: {bad[0]} of {name} is {own[bad[0]]!r}.")
        factor *= own.pop("lr_factor", 1.0)
        entries |= own
    if factor != 1.0:
        entries["lr"] = entries["lr"] * factor
    return entries
