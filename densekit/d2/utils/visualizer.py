"""Drawing: the names that densekit uses of ``detectron2.utils.visualizer``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.utils.visualizer import ColorMode, VisImage, Visualizer
else:
    from detectron2.utils.visualizer import ColorMode, VisImage, Visualizer

__all__ = ["ColorMode", "VisImage", "Visualizer"]
