"""The published systems, one package each. The list is explicit: what is not named here is not registered."""

from collections.abc import Iterator
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
    for _ in add_each_config(cfg):
        pass


def add_each_config(cfg: CfgNode) -> Iterator[str]:
    """As :func:`add_all_configs`, and yields the name of each project after its node has been added."""
    for name in PROJECTS:
        import_module(f"{__name__}.{name}").add_config(cfg)
        yield name


def adapt_all_configs(cfg: CfgNode) -> None:
    """Lets every project that has ``adapt_config`` translate what a merged config says in the names of another code."""
    for _ in adapt_each_config(cfg):
        pass


def adapt_each_config(cfg: CfgNode) -> Iterator[str]:
    """As :func:`adapt_all_configs`, and yields the name of each project after it has had its say."""
    for name in PROJECTS:
        adapt = getattr(import_module(f"{__name__}.{name}"), "adapt_config", None)
        if adapt is not None:
            adapt(cfg)
            yield name
