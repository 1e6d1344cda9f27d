"""Logging: the names that densekit uses of ``detectron2.utils.logger``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.utils.logger as host
else:
    import detectron2.utils.logger as host

create_small_table = host.create_small_table
log_every_n = host.log_every_n
log_every_n_seconds = host.log_every_n_seconds
log_first_n = host.log_first_n
setup_logger = host.setup_logger
