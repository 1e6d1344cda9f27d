"""Detectron2's names for parts that its bundled projects have too (PointRend, DeepLab)."""

from densekit.d2 import HOST
from densekit.d2.utils.registry import Registry


def also_known_as(registry: Registry, name: str, entry: type) -> None:
    """Registers an entry under Detectron2's name for it too, where that name is free.

    On Detectron2 it is not: its bundled project takes it as soon as anything imports that project, and a registry
    refuses a name twice. There ``densekit.config.load_config`` translates the name instead.

    Args:
        registry: of the slot.
        name: Detectron2's.
        entry: the class.
    """
    if HOST == "builtin":
        registry.register(type(name, (entry,), {"__doc__": entry.__doc__, "__module__": entry.__module__}))
