"""Checkpoints: the names that densekit uses of ``detectron2.checkpoint``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.checkpoint import Checkpointer, DetectionCheckpointer, PeriodicCheckpointer
else:
    from detectron2.checkpoint import Checkpointer, DetectionCheckpointer, PeriodicCheckpointer

__all__ = ["Checkpointer", "DetectionCheckpointer", "PeriodicCheckpointer"]
