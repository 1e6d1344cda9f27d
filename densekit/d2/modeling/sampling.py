"""Balanced sampling: the names that densekit uses of ``detectron2.modeling.sampling``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.sampling as host
else:
    import detectron2.modeling.sampling as host

subsample_labels = host.subsample_labels
