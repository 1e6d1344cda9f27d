"""Drawing: the names that densekit uses of ``detectron2.utils.visualizer``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.utils.visualizer as host
else:
    import detectron2.utils.visualizer as host

ColorMode = host.ColorMode
VisImage = host.VisImage
Visualizer = host.Visualizer
