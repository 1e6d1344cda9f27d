"""Colours: the names that densekit uses of ``detectron2.utils.colormap``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.utils.colormap import colormap, random_color
else:
    from detectron2.utils.colormap import colormap, random_color

__all__ = ["colormap", "random_color"]
