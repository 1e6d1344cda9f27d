"""Data sets: COCO's format with thorough checks, the standard names, and the mapper that names what it cannot read.

The names below come from modules of their own and are imported when first asked for, which also registers the standard
data sets: the generator of the built-in pictures lives in this package and starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densekit.data.checks import check_datasets
    from densekit.data.coco import load_coco_json, register_coco_instances
    from densekit.data.mapper import MAPPERS, DatasetMapper
    from densekit.data.own import register_dataset, register_from_yaml

__all__ = [
    "MAPPERS",
    "DatasetMapper",
    "check_datasets",
    "load_coco_json",
    "register_coco_instances",
    "register_dataset",
    "register_from_yaml",
]

_HOMES = {
    "MAPPERS": "mapper",
    "DatasetMapper": "mapper",
    "check_datasets": "checks",
    "load_coco_json": "coco",
    "register_coco_instances": "coco",
    "register_dataset": "own",
    "register_from_yaml": "own",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module("densekit.data.builtin")
    return getattr(import_module(f"densekit.data.{_HOMES[name]}"), name)
