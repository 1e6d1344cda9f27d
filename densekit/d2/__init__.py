"""The seam: Detectron2's names, from Detectron2 itself or from densekit's built-in runtime.

Each module here mirrors one module of Detectron2 and lists the names that densekit uses of it. Which host answers is
decided once per process in :mod:`densekit.d2._host`.
"""

from densekit.d2._host import HOST

__all__ = ["HOST"]
