"""The built-in data set: synthetic street scenes with exact labels in COCO's and Cityscapes' formats."""

from densekit.data.streets.register import register_streets
from densekit.data.streets.write import write_streets

__all__ = ["register_streets", "write_streets"]
