"""Joining the other processes of a job, whoever started them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from densekit.d2.utils import comm
from densekit.engine.errors import user_errors
from densekit.engine.launch.place import Place
from densekit.engine.launch.rendezvous import Rendezvous, job_store, open_store
from densekit.engine.launch.watch import watched
from densekit.engine.preemption import leaving_on_signals
from densekit.engine.self_test import call_roll, time_limit, try_collective

# Of a collective call; rank 0 may be busy with an evaluation for long.
_TIMEOUT = timedelta(minutes=30)


@contextmanager
def joined(place: Place, rendezvous: Rendezvous, on_cpu: bool) -> Iterator[None]:
    """The process group of the job for the length of the block; this process takes its GPU.

    The block begins when all processes have shown that they can compute together. One that ends ends all.
    """
    backend = "gloo" if on_cpu else "nccl"
    address = f"{rendezvous.host}:{rendezvous.port} ({backend})"
    if not on_cpu:
        torch.cuda.set_device(_gpu(place))
    with user_errors((ConnectionError, ValueError)):
        limit = time_limit()
        opened = open_store(rendezvous, serve=not rendezvous.opened and place.rank == 0, limit=limit)
        store = job_store(opened, rendezvous)
        call_roll(store, place.rank, place.world_size, address, limit)
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world_size, timeout=_TIMEOUT)
        try_collective(store, address, "cpu" if on_cpu else "cuda", limit)
    comm.create_local_process_group(place.local_size)
    with leaving_on_signals(), watched(store, place, rendezvous.host):
        yield
    dist.destroy_process_group()  # not after an error: the others may be gone already


def _gpu(place: Place) -> int:
    """The GPU of this process: the only one that a scheduler shows it, or that of its number on the machine."""
    return 0 if torch.cuda.device_count() == 1 else place.local_rank
