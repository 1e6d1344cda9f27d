"""Memory: the names that densekit uses of ``detectron2.utils.memory``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.utils.memory as host
else:
    import detectron2.utils.memory as host

retry_if_cuda_oom = host.retry_if_cuda_oom
