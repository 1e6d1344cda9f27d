"""Assignment of ground truth: the names that densekit uses of ``detectron2.modeling.matcher``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.matcher as host
else:
    import detectron2.modeling.matcher as host

Matcher = host.Matcher
