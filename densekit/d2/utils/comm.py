"""Process groups: the names that densekit uses of ``detectron2.utils.comm``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.utils.comm as host
else:
    import detectron2.utils.comm as host

all_gather = host.all_gather
create_local_process_group = host.create_local_process_group
gather = host.gather
get_local_rank = host.get_local_rank
get_local_size = host.get_local_size
get_rank = host.get_rank
get_world_size = host.get_world_size
is_main_process = host.is_main_process
reduce_dict = host.reduce_dict
shared_random_seed = host.shared_random_seed
synchronize = host.synchronize
