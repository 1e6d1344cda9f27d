"""Paths: the names that densekit uses of ``detectron2.utils.file_io``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.utils.file_io as host
else:
    import detectron2.utils.file_io as host

PathManager = host.PathManager
