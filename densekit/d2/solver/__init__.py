"""Optimizers and schedules: the names that densekit uses of ``detectron2.solver``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.solver import (
        LRMultiplier,
        WarmupParamScheduler,
        build_lr_scheduler,
        build_optimizer,
        get_default_optimizer_params,
    )
else:
    from detectron2.solver import (
        LRMultiplier,
        WarmupParamScheduler,
        build_lr_scheduler,
        build_optimizer,
        get_default_optimizer_params,
    )

__all__ = [
    "LRMultiplier",
    "WarmupParamScheduler",
    "build_lr_scheduler",
    "build_optimizer",
    "get_default_optimizer_params",
]
