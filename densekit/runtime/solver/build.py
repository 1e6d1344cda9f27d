"""From ``cfg.SOLVER`` to an optimizer with its parameter groups, gradient clipping and a learning-rate schedule."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from densekit.runtime.config import CfgNode
from densekit.runtime.solver.lr_scheduler import LRMultiplier, WarmupParamScheduler

_OptimizerOrClass = TypeVar("_OptimizerOrClass", torch.optim.Optimizer, type[torch.optim.Optimizer])
_ParamGroup = dict[str, Any]

_NORM_LAYERS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD over the trainable parameters of ``model``, as ``cfg.SOLVER`` asks."""
    solver = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    optimizer = torch.optim.SGD(
        groups,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
        foreach=True,
    )
    return maybe_add_gradient_clipping(cfg, optimizer)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[_ParamGroup]:
    """Parameter groups of a model, one for each combination of hyperparameters.

    A rule by the parameter's name (for biases, or in ``overrides``) wins over one by its layer, and that over the rules
    for all. What stays ``None`` is left to the optimizer.

    Args:
        model: Parameters that need no gradient are left out, shared ones are taken once.
        base_lr: Learning rate of all.
        weight_decay: Weight decay of all.
        weight_decay_norm: Weight decay in normalization layers.
        bias_lr_factor: Multiplies ``base_lr`` for parameters named ``bias``.
        weight_decay_bias: Weight decay of parameters named ``bias``.
        lr_factor_func: Full name of a parameter -> factor on its learning rate.
        overrides: Last part of a parameter's name -> its hyperparameters, such as ``{"bias": {"lr": 0.1}}``.

    Raises:
        ValueError: A factor on the learning rate without ``base_lr``, or two rules for ``bias``.
    """
    named = {name: dict(values) for name, values in (overrides or {}).items()}
    bias = _bias_rule(base_lr, bias_lr_factor, weight_decay_bias)
    if bias and "bias" in named:
        raise ValueError("overrides['bias'] contradicts bias_lr_factor or weight_decay_bias; give one of them.")
    if bias:
        named["bias"] = bias
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func needs base_lr.")
    common = {key: value for key, value in (("lr", base_lr), ("weight_decay", weight_decay)) if value is not None}

    groups: list[_ParamGroup] = []
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        is_norm = isinstance(module, _NORM_LAYERS)
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            hyper = dict(common)
            if is_norm and weight_decay_norm is not None:
                hyper["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                hyper["lr"] *= lr_factor_func(f"{module_name}.{name}")
            groups.append({"params": [parameter], **hyper, **named.get(name, {})})
    return reduce_param_groups(groups)


def _bias_rule(base_lr: float | None, factor: float | None, weight_decay: float | None) -> dict[str, float]:
    rule: dict[str, float] = {}
    if factor is not None and factor != 1.0:
        if base_lr is None:
            raise ValueError("bias_lr_factor needs base_lr.")
        rule["lr"] = base_lr * factor
    if weight_decay is not None:
        rule["weight_decay"] = weight_decay
    return rule


def reduce_param_groups(params: list[_ParamGroup]) -> list[_ParamGroup]:
    """Joins groups of equal hyperparameters: the fewer there are, the fewer kernels a step launches.

    Args:
        params: Groups as an optimizer takes them. A parameter may be in several; later values win.

    Returns:
        The joined groups, in the order of their first parameter.
    """
    hyper_of: dict[nn.Parameter, dict[str, Any]] = {}
    name_of: dict[nn.Parameter, str] = {}
    for group in params:
        hyper = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        for parameter in group["params"]:
            hyper_of.setdefault(parameter, {}).update(hyper)
        name_of.update(zip(group["params"], group.get("param_names", ())))

    joined: dict[tuple[Any, ...], _ParamGroup] = {}
    for parameter, hyper in hyper_of.items():
        group = joined.setdefault(tuple(sorted(hyper.items())), {**hyper, "params": []})
        group["params"].append(parameter)
        if parameter in name_of:
            group.setdefault("param_names", []).append(name_of[parameter])
    return list(joined.values())


def maybe_add_gradient_clipping(cfg: CfgNode, optimizer: _OptimizerOrClass) -> _OptimizerOrClass:
    """Makes ``step()`` clip the gradients first, if ``SOLVER.CLIP_GRADIENTS.ENABLED``.

    Args:
        cfg: The config.
        optimizer: An optimizer, which is changed in place, or a class of optimizers.

    Returns:
        The same optimizer, or a subclass of the class.

    Raises:
        ValueError: ``CLIP_TYPE`` is neither ``"value"`` nor ``"norm"``.
    """
    if not cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        return optimizer
    clip = _gradient_clipper(cfg.SOLVER.CLIP_GRADIENTS)
    if isinstance(optimizer, torch.optim.Optimizer):
        optimizer.__class__ = _clipping_class(type(optimizer), clip)
        return optimizer
    return _clipping_class(optimizer, clip)


def _gradient_clipper(cfg: CfgNode) -> Callable[[nn.Parameter], Any]:
    limit, norm_type = cfg.CLIP_VALUE, cfg.NORM_TYPE
    if cfg.CLIP_TYPE == "value":
        return lambda parameter: nn.utils.clip_grad_value_(parameter, limit)
    if cfg.CLIP_TYPE == "norm":
        return lambda parameter: nn.utils.clip_grad_norm_(parameter, limit, norm_type)
    raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {cfg.CLIP_TYPE!r}; it can be 'value' or 'norm'.")


def _clipping_class(
    base: type[torch.optim.Optimizer], clip: Callable[[nn.Parameter], Any]
) -> type[torch.optim.Optimizer]:
    def step(self: torch.optim.Optimizer, closure: Callable[[], float] | None = None) -> float | None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:  # clip_grad_value_ fails on those of a part that was not used
                    clip(parameter)
        return base.step(self, closure)

    return type(f"{base.__name__}WithGradientClip", (base,), {"step": step})


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The schedule ``SOLVER.LR_SCHEDULER_NAME`` with its warm-up.

    Raises:
        ValueError: There is no schedule of that name, or its settings contradict each other.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME not in _SCHEDULES:
        raise ValueError(
            f"SOLVER.LR_SCHEDULER_NAME is {solver.LR_SCHEDULER_NAME!r}; it can be one of {', '.join(_SCHEDULES)}."
        )
    schedule = WarmupParamScheduler(
        _SCHEDULES[solver.LR_SCHEDULER_NAME](solver),
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
        solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=solver.MAX_ITER)


def _multi_step(solver: CfgNode) -> ParamScheduler:
    steps = [step for step in solver.STEPS if step <= solver.MAX_ITER]
    if len(steps) < len(solver.STEPS):
        late = [step for step in solver.STEPS if step > solver.MAX_ITER]
        logging.getLogger(__name__).warning("SOLVER.STEPS %s come after MAX_ITER and have no effect.", late)
    values = [solver.GAMMA**decays for decays in range(len(steps) + 1)]
    return MultiStepParamScheduler(values, milestones=steps, num_updates=solver.MAX_ITER)


def _cosine(solver: CfgNode) -> ParamScheduler:
    end = solver.BASE_LR_END / solver.BASE_LR
    if not 0.0 <= end <= 1.0:
        raise ValueError(f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}; it must lie in [0, BASE_LR = {solver.BASE_LR}].")
    return CosineParamScheduler(1.0, end)


class _FixedGamma(StepWithFixedGammaParamScheduler):
    def __call__(self, where: float) -> float:
        return super().__call__(min(where, 1.0 - 2 * self.WHERE_EPSILON))  # fvcore's has no value at the very end


def _fixed_gamma(solver: CfgNode) -> ParamScheduler:
    return _FixedGamma(1.0, solver.NUM_DECAYS, solver.GAMMA, solver.MAX_ITER)


_SCHEDULES: dict[str, Callable[[CfgNode], ParamScheduler]] = {
    "WarmupMultiStepLR": _multi_step,
    "WarmupCosineLR": _cosine,
    "WarmupStepWithFixedGammaLR": _fixed_gamma,
}
