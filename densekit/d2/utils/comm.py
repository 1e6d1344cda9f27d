"""Process groups: the names that densekit uses of ``detectron2.utils.comm``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.utils.comm import (
        all_gather,
        create_local_process_group,
        gather,
        get_local_rank,
        get_local_size,
        get_rank,
        get_world_size,
        is_main_process,
        reduce_dict,
        shared_random_seed,
        synchronize,
    )
else:
    from detectron2.utils.comm import (
        all_gather,
        create_local_process_group,
        gather,
        get_local_rank,
        get_local_size,
        get_rank,
        get_world_size,
        is_main_process,
        reduce_dict,
        shared_random_seed,
        synchronize,
    )

__all__ = [
    "all_gather",
    "create_local_process_group",
    "gather",
    "get_local_rank",
    "get_local_size",
    "get_rank",
    "get_world_size",
    "is_main_process",
    "reduce_dict",
    "shared_random_seed",
    "synchronize",
]
