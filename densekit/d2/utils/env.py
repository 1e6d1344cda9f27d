"""Seeding: the names that densekit uses of ``detectron2.utils.env``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.utils.env import seed_all_rng
else:
    from detectron2.utils.env import seed_all_rng

__all__ = ["seed_all_rng"]
