"""Optimizers and schedules: the names that densekit uses of ``detectron2.solver``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.solver as host
else:
    import detectron2.solver as host

LRMultiplier = host.LRMultiplier
WarmupParamScheduler = host.WarmupParamScheduler
build_lr_scheduler = host.build_lr_scheduler
build_optimizer = host.build_optimizer
get_default_optimizer_params = host.get_default_optimizer_params
