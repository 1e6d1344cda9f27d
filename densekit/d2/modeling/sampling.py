"""Balanced sampling: the names that densekit uses of ``detectron2.modeling.sampling``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.sampling import subsample_labels
else:
    from detectron2.modeling.sampling import subsample_labels

__all__ = ["subsample_labels"]
