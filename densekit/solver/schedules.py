"""Learning-rate schedules beside the host's."""

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.param_scheduler import ParamScheduler
from torch.optim.lr_scheduler import LRScheduler

from densekit.d2 import solver as host
from densekit.d2.config import CfgNode
from densekit.d2.utils.registry import Registry

__all__ = ["LR_SCHEDULER_REGISTRY", "build_lr_scheduler"]

LR_SCHEDULER_REGISTRY = Registry("LR_SCHEDULER")
LR_SCHEDULER_REGISTRY.__doc__ = """
Schedules that ``SOLVER.LR_SCHEDULER_NAME`` may name beside the host's: called with the config and the optimizer, return
a torch ``LRScheduler`` that steps once an iteration.
"""


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Builds the schedule ``SOLVER.LR_SCHEDULER_NAME``, a registered one or the host's."""
    if cfg.SOLVER.MAX_ITER <= cfg.SOLVER.WARMUP_ITERS:
        logging.getLogger(__name__).warning(
            f"SOLVER.WARMUP_ITERS {cfg.SOLVER.WARMUP_ITERS} is the whole run of SOLVER.MAX_ITER "
            f"{cfg.SOLVER.MAX_ITER}: the learning rate never reaches SOLVER.BASE_LR {cfg.SOLVER.BASE_LR:g}."
        )
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    if name not in LR_SCHEDULER_REGISTRY:
        return host.build_lr_scheduler(cfg, optimizer)
    return LR_SCHEDULER_REGISTRY.get(name)(cfg, optimizer)


@LR_SCHEDULER_REGISTRY.register()
def WarmupPolyLR(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:  # noqa: N802 - a name in configs
    """Poly decay as DeepLab has it (arXiv 1606.00915)."""
    return host.LRMultiplier(optimizer, multiplier=_WarmupPoly(cfg), max_iter=cfg.SOLVER.MAX_ITER)


@LR_SCHEDULER_REGISTRY.register()
def GroupWarmupCosineLR(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:  # noqa: N802
    """Half a cosine from each group's rate to BASE_LR_END / BASE_LR of it, with a linear warm-up by the group."""
    solver = cfg.SOLVER
    end = solver.BASE_LR_END / solver.BASE_LR
    if not 0.0 <= end <= 1.0:
        raise ValueError(f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}; it must lie in [0, BASE_LR = {solver.BASE_LR}].")

    def decay(iteration: int) -> float:
        return end + (1 - end) * (1 + math.cos(math.pi * min(iteration / solver.MAX_ITER, 1.0))) / 2

    return GroupWarmup(optimizer, decay, solver.WARMUP_ITERS, solver.WARMUP_FACTOR, solver.WARMUP_MOMENTUM)


class GroupWarmup(LRScheduler):
    """A schedule whose warm-up takes each group from a rate and a momentum of its own to those of the schedule.

    Args:
        optimizer: a group's entry ``warmup_lr`` is the rate that its warm-up starts with; the others start at
            ``warmup_factor`` of their own.
        decay: iteration -> factor on the rates.
        warmup_iters: length of the warm-up.
        warmup_factor: as above.
        warmup_momentum: that the momentum of every group starts with; below 0: the momentum stays as it is.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        decay: Callable[[int], float],
        warmup_iters: int,
        warmup_factor: float = 0.0,
        warmup_momentum: float = -1.0,
    ) -> None:
        self._decay, self._warmup_iters, self._warmup_factor = decay, warmup_iters, warmup_factor
        self._warmup_momentum = warmup_momentum
        self._momenta = [_momentum(group) for group in optimizer.param_groups]
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        now, share = self.last_epoch, self._share_of_warmup()
        self._set_momenta(share)
        rates = []
        for base, group in zip(self.base_lrs, self.optimizer.param_groups):
            goal = base * self._decay(now)
            start = group.get("warmup_lr", base * self._warmup_factor)
            rates.append(goal if share >= 1 else start + (goal - start) * share)
        return rates

    def _share_of_warmup(self) -> float:
        return min(self.last_epoch / self._warmup_iters, 1.0) if self._warmup_iters else 1.0

    def _set_momenta(self, share: float) -> None:
        if self._warmup_momentum < 0:
            return
        for goal, group in zip(self._momenta, self.optimizer.param_groups):
            if goal is None:
                continue
            value = goal if share >= 1 else self._warmup_momentum + (goal - self._warmup_momentum) * share
            if "betas" in group:
                group["betas"] = (value, *group["betas"][1:])
            else:
                group["momentum"] = value

    def state_dict(self) -> dict[str, Any]:
        """Returns the place in the schedule; the schedule itself comes from the config."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}


def _momentum(group: dict) -> float | None:
    """The momentum of a group: of SGD, or the first beta of Adam and its like."""
    return group["betas"][0] if "betas" in group else group.get("momentum")


class _WarmupPoly(ParamScheduler):
    """The factor of poly decay: the warm-up multiplies the decay instead of replacing it."""

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
