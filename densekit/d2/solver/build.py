"""Gradient clipping: the names that densekit uses of ``detectron2.solver.build``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.solver.build import (
        build_lr_scheduler,
        build_optimizer,
        get_default_optimizer_params,
        maybe_add_gradient_clipping,
        reduce_param_groups,
    )
else:
    from detectron2.solver.build import (
        build_lr_scheduler,
        build_optimizer,
        get_default_optimizer_params,
        maybe_add_gradient_clipping,
        reduce_param_groups,
    )

__all__ = [
    "build_lr_scheduler",
    "build_optimizer",
    "get_default_optimizer_params",
    "maybe_add_gradient_clipping",
    "reduce_param_groups",
]
