"""Talking between processes, also where there is only one.

Every function works without ``torch.distributed``: rank 0 of 1, nothing to wait for. Objects travel over gloo on the
CPU; tensors of :func:`reduce_dict` use the backend of the run.
"""

from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

_T = TypeVar("_T")

# A number, and not a process group: a group that outlives destroy_process_group can abort the process when it exits.
_workers_per_machine: int | None = None
_cpu_groups: dict[Any, Any] = {}  # NCCL's default group -> gloo group of the same processes


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """Index of this process among all."""
    return dist.get_rank() if _is_distributed() else 0


def is_main_process() -> bool:
    """Tells whether this is rank 0, the process that writes files and prints."""
    return get_rank() == 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Tells which processes share a machine; every process calls it, after ``init_process_group``.

    Args:
        num_workers_per_machine: The same on every machine; ranks count machine by machine.

    Raises:
        ValueError: The number of processes is not a multiple of it.
    """
    global _workers_per_machine
    world_size = get_world_size()
    if num_workers_per_machine < 1 or world_size % num_workers_per_machine:
        raise ValueError(f"{world_size} processes do not divide into machines of {num_workers_per_machine}.")
    _workers_per_machine = num_workers_per_machine


def get_local_rank() -> int:
    """Index of this process among those of its machine."""
    return get_rank() % get_local_size()


def get_local_size() -> int:
    """Number of processes on this machine.

    Raises:
        RuntimeError: There are several processes and :func:`create_local_process_group` was not called.
    """
    if get_world_size() == 1:
        return 1
    if _workers_per_machine is None:
        raise RuntimeError(
            "It is unknown which processes share a machine. Start them with launch(), or call "
            "create_local_process_group(processes per machine) after init_process_group."
        )
    return _workers_per_machine


def synchronize() -> None:
    """Waits until all processes are here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


def _cpu_group() -> Any:
    """All processes, over gloo: pickled objects would take GPU memory under NCCL."""
    if dist.get_backend() != dist.Backend.NCCL:
        return dist.group.WORLD
    world = dist.group.WORLD
    if world not in _cpu_groups:
        _cpu_groups.clear()  # what is left of a default group that was destroyed
        _cpu_groups[world] = dist.new_group(backend="gloo")
    return _cpu_groups[world]


def all_gather(data: _T, group: Any | None = None) -> list[_T]:
    """Everybody's object, for everybody.

    Args:
        data: Anything that pickles.
        group: The processes that take part; all by default.

    Returns:
        The objects in the order of the ranks.
    """
    if get_world_size() == 1:
        return [data]
    group = _cpu_group() if group is None else group
    received: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(received, data, group=group)
    return received


def gather(data: _T, dst: int = 0, group: Any | None = None) -> list[_T]:
    """Everybody's object, for one process.

    Args:
        data: Anything that pickles.
        dst: Rank, among all processes, of the one that receives.
        group: The processes that take part; all by default.

    Returns:
        On ``dst`` the objects in the order of the ranks, elsewhere an empty list.
    """
    if get_world_size() == 1:
        return [data]
    group = _cpu_group() if group is None else group
    received: list[Any] | None = [None] * dist.get_world_size(group) if get_rank() == dst else None
    dist.gather_object(data, received, dst=dst, group=group)
    return received or []


def shared_random_seed() -> int:
    """A random number that is the same in all processes; all of them must call it.

    It is drawn from numpy's global generator of rank 0, so that seeding a run also fixes it.
    """
    return all_gather(int(np.random.randint(2**31)))[0]


def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True) -> dict[str, torch.Tensor]:
    """Sums scalars over the processes.

    Args:
        input_dict: Scalar tensors, the same keys in every process.
        average: Divide by the number of processes.

    Returns:
        The same keys; only rank 0's values are the reduced ones.
    """
    world_size = get_world_size()
    if world_size == 1:
        return input_dict
    with torch.no_grad():
        names = sorted(input_dict)  # every process stacks in the same order
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        if average and get_rank() == 0:
            values /= world_size
        return dict(zip(names, values.unbind()))
