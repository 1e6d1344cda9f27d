"""Assignment of ground truth: the names that densekit uses of ``detectron2.modeling.matcher``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.matcher import Matcher
else:
    from detectron2.modeling.matcher import Matcher

__all__ = ["Matcher"]
