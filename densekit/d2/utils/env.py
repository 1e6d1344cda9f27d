"""Seeding: the names that densekit uses of ``detectron2.utils.env``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.utils.env as host
else:
    import detectron2.utils.env as host

seed_all_rng = host.seed_all_rng
