"""Configuration: the names that densekit uses of ``detectron2.config``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.config import CfgNode, configurable, get_cfg
else:
    from detectron2.config import CfgNode, configurable, get_cfg

__all__ = ["CfgNode", "configurable", "get_cfg"]
