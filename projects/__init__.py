"""The published systems, one package each. The list is explicit: what is not named here is not registered."""

from importlib import import_module

from densekit.d2.config import CfgNode

PROJECTS: tuple[str, ...] = (
    "_template",
    "carafe",
    "detr",
    "mask_scoring",
)


def add_all_configs(cfg: CfgNode) -> None:
    """Adds every project's configuration node to ``cfg`` and, by importing it, registers its parts."""
    for name in PROJECTS:
        import_module(f"{__name__}.{name}").add_config(cfg)
