"""What densekit's systems need beside the host's solver: AdamW, clipping of the whole model, poly decay."""

import logging
from typing import Any

import torch
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from densekit.d2 import solver as host
from densekit.d2.config import CfgNode
from densekit.d2.solver.build import maybe_add_gradient_clipping

# The attribute of an optimizer under which a training step hands over the norm of all gradients, which clipping needs.
GRADIENT_NORM = "gradient_norm"

# Tables of positions in transformer backbones: they are offsets, not weights, and are trained without weight decay.
_NOT_DECAYED = {name: {"weight_decay": 0.0} for name in ("relative_position_bias_table", "absolute_pos_embed")}


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer ``SOLVER.OPTIMIZER`` over the trainable parameters of ``model``.

    ``CLIP_GRADIENTS.CLIP_TYPE`` may be ``"full_model"`` beside the host's types: the gradients of all parameters
    together are scaled down to a norm (``NORM_TYPE``) of at most ``CLIP_VALUE``.

    Raises:
        ValueError: There is no optimizer of that name.
    """
    solver, clipping = cfg.SOLVER, cfg.SOLVER.CLIP_GRADIENTS
    if solver.OPTIMIZER not in ("SGD", "AdamW"):
        raise ValueError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; it can be 'SGD' or 'AdamW'.")
    full_model = clipping.ENABLED and clipping.CLIP_TYPE == "full_model"
    if full_model:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False  # the host does not know this type
    optimizer = maybe_add_gradient_clipping(cfg, _own_optimizer(cfg, model))
    complete_state(optimizer)
    if full_model:
        _clip_before_step(optimizer, clipping.CLIP_VALUE, clipping.NORM_TYPE)
    return optimizer


def gradient_norm_type(cfg: CfgNode) -> float:
    """The type of the norm of all gradients: that of their clipping, if they are clipped by it, else Euclid's."""
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    return clipping.NORM_TYPE if clipping.ENABLED and clipping.CLIP_TYPE == "full_model" else 2.0


def _own_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    solver = cfg.SOLVER
    groups = host.get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=lambda name: solver.BACKBONE_MULTIPLIER if "backbone" in name.split(".") else 1.0,
        overrides=_NOT_DECAYED if solver.OPTIMIZER == "AdamW" else None,
    )
    # Fused kernels can leave a step out without asking the host; sharded parameters do without them.
    fused = all(type(value.data) is torch.Tensor and value.is_cuda for group in groups for value in group["params"])
    common: dict[str, Any] = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    common |= {"fused": True} if fused else {"foreach": True}
    if solver.OPTIMIZER == "AdamW":
        return torch.optim.AdamW(groups, **common)
    return torch.optim.SGD(groups, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **common)


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


def _clip_before_step(optimizer: torch.optim.Optimizer, limit: float, norm_type: float) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def clip(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        norm = optimizer.__dict__.pop(GRADIENT_NORM, None)
        if norm is None:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            norm = nn.utils.get_total_norm(gradients, norm_type)
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)

    optimizer.register_step_pre_hook(clip)


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The schedule ``SOLVER.LR_SCHEDULER_NAME``: the host's, or ``"WarmupPolyLR"``."""
    if cfg.SOLVER.MAX_ITER <= cfg.SOLVER.WARMUP_ITERS:
        logging.getLogger(__name__).warning(
            f"SOLVER.WARMUP_ITERS {cfg.SOLVER.WARMUP_ITERS} is the whole run of SOLVER.MAX_ITER "
            f"{cfg.SOLVER.MAX_ITER}: the learning rate never reaches SOLVER.BASE_LR {cfg.SOLVER.BASE_LR:g}."
        )
    if cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupPolyLR":
        return host.build_lr_scheduler(cfg, optimizer)
    return host.LRMultiplier(optimizer, multiplier=_WarmupPoly(cfg), max_iter=cfg.SOLVER.MAX_ITER)


class _WarmupPoly(ParamScheduler):
    """Poly decay as DeepLab has it (arXiv 1606.00915): the warm-up multiplies the decay instead of replacing it."""

    def __init__(self, cfg: CfgNode) -> None:
        solver = cfg.SOLVER
        if solver.WARMUP_METHOD not in ("linear", "constant"):
            raise ValueError(f"SOLVER.WARMUP_METHOD is {solver.WARMUP_METHOD!r}; it can be 'linear' or 'constant'.")
        self._power = solver.POLY_LR_POWER
        self._ending = solver.POLY_LR_CONSTANT_ENDING
        self._warmup_length = solver.WARMUP_ITERS / solver.MAX_ITER
        self._warmup_start = solver.WARMUP_FACTOR
        self._linear = solver.WARMUP_METHOD == "linear"

    def __call__(self, where: float) -> float:
        decay = max(1.0 - where, 0.0) ** self._power
        if where >= self._warmup_length:
            return max(decay, self._ending)
        progress = where / self._warmup_length if self._linear else 0.0
        return decay * (self._warmup_start + (1.0 - self._warmup_start) * progress)
