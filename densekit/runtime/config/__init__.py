"""Configuration: ``CfgNode`` with ``_BASE_`` files, the default keys, and ``@configurable`` constructors."""

from densekit.runtime.config.configurable import configurable
from densekit.runtime.config.defaults import get_cfg
from densekit.runtime.config.node import CfgNode
