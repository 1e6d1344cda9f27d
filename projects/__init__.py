"""The published systems, one package each. The list is explicit: what is not named here is not registered."""

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

from densekit.d2.config import CfgNode

PROJECTS: tuple[str, ...] = (
    "_template",
    "cacnet",
    "carafe",
    "deeplab",
    "detr",
    "hrnet",
    "inpainting",
    "mask_scoring",
    "mpvit",
    "ocr",
    "pointrend",
    "pose",
    "rcnn",
    "spnet",
    "swin",
    "timm_backbone",
    "torchvision_backbone",
    "upernet",
    "yolov6",
)


def rooms() -> Iterator[tuple[str, ModuleType]]:
    """Yields the name and the package of each project; the import registers its parts and its weights' names."""
    for name in PROJECTS:
        yield name, import_module(f"{__name__}.{name}")


def add_all_configs(cfg: CfgNode) -> None:
    """Adds every project's configuration node to ``cfg`` and, by importing it, registers its parts."""
    for _ in add_each_config(cfg):
        pass


def add_each_config(cfg: CfgNode) -> Iterator[str]:
    """As :func:`add_all_configs`, and yields the name of each project after its node has been added."""
    yield from _call_each("add_config", cfg)


def adapt_all_configs(cfg: CfgNode) -> None:
    """Lets every project that has ``adapt_config`` translate what a merged config says in the names of another code."""
    for _ in adapt_each_config(cfg):
        pass


def adapt_each_config(cfg: CfgNode) -> Iterator[str]:
    """As :func:`adapt_all_configs`, and yields the name of each project after it has had its say."""
    yield from _call_each("adapt_config", cfg)


def shrink_all(cfg: CfgNode) -> None:
    """Lets every project with keys of its own make a merged config small enough to train a step of it in a test."""
    for _ in _call_each("shrink", cfg):
        pass


def _call_each(function: str, cfg: CfgNode) -> Iterator[str]:
    """Calls a function of each project that has it; yields the project's name then."""
    for name, room in rooms():
        if hasattr(room, function):
            getattr(room, function)(cfg)
            yield name
