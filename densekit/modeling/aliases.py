"""Names that other Detectron2 projects use for parts that are here too (its PointRend, the wrapper of DETR)."""

from densekit.d2 import HOST
from densekit.d2.utils.registry import Registry


def also_known_as(registry: Registry, name: str, entry: type) -> None:
    """Registers an entry under another project's name for it too, where that name is free.

    On Detectron2 it is not: that project takes it as soon as anything imports it, and a registry refuses a name twice.
    There ``densekit.config.load_config`` translates the name instead.

    Args:
        registry: of the slot.
        name: the other project's.
        entry: the class.
    """
    if HOST == "builtin":
        registry.register(type(name, (entry,), {"__doc__": entry.__doc__, "__module__": entry.__module__}))
