"""Colours: the names that densekit uses of ``detectron2.utils.colormap``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.utils.colormap as host
else:
    import detectron2.utils.colormap as host

colormap = host.colormap
random_color = host.random_color
