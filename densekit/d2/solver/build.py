"""Gradient clipping: the names that densekit uses of ``detectron2.solver.build``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.solver.build as host
else:
    import detectron2.solver.build as host

build_lr_scheduler = host.build_lr_scheduler
build_optimizer = host.build_optimizer
get_default_optimizer_params = host.get_default_optimizer_params
maybe_add_gradient_clipping = host.maybe_add_gradient_clipping
reduce_param_groups = host.reduce_param_groups
