"""Registries: the names that densekit uses of ``detectron2.utils.registry``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.utils.registry as host
else:
    import detectron2.utils.registry as host

Registry = host.Registry
