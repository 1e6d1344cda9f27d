"""Registries: the names that densekit uses of ``detectron2.utils.registry``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.utils.registry import Registry
else:
    from detectron2.utils.registry import Registry

__all__ = ["Registry"]
