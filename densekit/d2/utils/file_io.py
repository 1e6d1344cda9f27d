"""Paths: the names that densekit uses of ``detectron2.utils.file_io``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.utils.file_io import PathManager
else:
    from detectron2.utils.file_io import PathManager

__all__ = ["PathManager"]
