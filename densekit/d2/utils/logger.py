"""Logging: the names that densekit uses of ``detectron2.utils.logger``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.utils.logger import (
        create_small_table,
        log_every_n,
        log_every_n_seconds,
        log_first_n,
        setup_logger,
    )
else:
    from detectron2.utils.logger import (
        create_small_table,
        log_every_n,
        log_every_n_seconds,
        log_first_n,
        setup_logger,
    )

__all__ = ["create_small_table", "log_every_n", "log_every_n_seconds", "log_first_n", "setup_logger"]
