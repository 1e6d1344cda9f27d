"""Training hooks: the names that densekit uses of ``detectron2.engine.hooks``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.engine.hooks as host
else:
    import detectron2.engine.hooks as host

BestCheckpointer = host.BestCheckpointer
CallbackHook = host.CallbackHook
EvalHook = host.EvalHook
IterationTimer = host.IterationTimer
LRScheduler = host.LRScheduler
PeriodicCheckpointer = host.PeriodicCheckpointer
PeriodicWriter = host.PeriodicWriter
PreciseBN = host.PreciseBN
