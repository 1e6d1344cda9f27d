"""Data sets: COCO's format with thorough checks, the standard names, and the mapper that names what it cannot read.

Importing this package registers the standard names.
"""

from densekit.data.builtin import register_builtin
from densekit.data.checks import check_datasets
from densekit.data.coco import load_coco_json, register_coco_instances
from densekit.data.mapper import MAPPERS, DatasetMapper
from densekit.data.own import register_from_yaml

__all__ = [
    "MAPPERS",
    "DatasetMapper",
    "check_datasets",
    "load_coco_json",
    "register_coco_instances",
    "register_from_yaml",
]

register_builtin()
