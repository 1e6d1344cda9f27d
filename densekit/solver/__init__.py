"""Optimizers, their parameter groups and learning-rate schedules beside the host's; both are chosen by name."""

from densekit.solver.build import OPTIMIZER_REGISTRY, build_optimizer, complete_state, phase_config
from densekit.solver.clipping import Clipping
from densekit.solver.groups import parameter_groups
from densekit.solver.schedules import LR_SCHEDULER_REGISTRY, build_lr_scheduler

__all__ = [
    "LR_SCHEDULER_REGISTRY",
    "OPTIMIZER_REGISTRY",
    "Clipping",
    "build_lr_scheduler",
    "build_optimizer",
    "complete_state",
    "parameter_groups",
    "phase_config",
]
