"""The model zoo: the names that densekit uses of ``detectron2.model_zoo``, over densekit's own configurations.

The same functions on both hosts, see :mod:`densekit.model_zoo`.
"""

from densekit.model_zoo import get, get_config, get_config_file

__all__ = ["get", "get_config", "get_config_file"]
