"""Checkpoints: the names that densekit uses of ``detectron2.checkpoint``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.checkpoint as host
else:
    import detectron2.checkpoint as host

Checkpointer = host.Checkpointer
DetectionCheckpointer = host.DetectionCheckpointer
PeriodicCheckpointer = host.PeriodicCheckpointer
