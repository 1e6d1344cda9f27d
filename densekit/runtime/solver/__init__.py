"""Optimizers and learning-rate schedules."""

from densekit.runtime.solver.build import build_lr_scheduler, build_optimizer, get_default_optimizer_params
from densekit.runtime.solver.lr_scheduler import LRMultiplier, WarmupParamScheduler
