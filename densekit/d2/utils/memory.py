"""Memory: the names that densekit uses of ``detectron2.utils.memory``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.utils.memory import retry_if_cuda_oom
else:
    from detectron2.utils.memory import retry_if_cuda_oom

__all__ = ["retry_if_cuda_oom"]
