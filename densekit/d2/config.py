"""Configuration: the names that densekit uses of ``detectron2.config``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.config as host
else:
    import detectron2.config as host

CfgNode = host.CfgNode
configurable = host.configurable
get_cfg = host.get_cfg
