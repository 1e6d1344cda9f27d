"""The published systems, one package each. The list is explicit: what is not named here is not registered."""

from importlib import import_module

from densekit.d2.config import CfgNode

PROJECTS: tuple[str, ...] = (
    "_template",
    "carafe",
    "detr",
    "mask_scoring",
    "pointrend",
)


def add_all_configs(cfg: CfgNode) -> None:
    """Adds every project's configuration node to ``cfg`` and, by importing it, registers its parts."""
    for name in PROJECTS:
        import_module(f"{__name__}.{name}").add_config(cfg)


def adapt_all_configs(cfg: CfgNode) -> None:
    """Lets every project that has ``adapt_config`` translate what a merged config says in the names of another code."""
    for name in PROJECTS:
        adapt = getattr(import_module(f"{__name__}.{name}"), "adapt_config", None)
        if adapt is not None:
            adapt(cfg)
