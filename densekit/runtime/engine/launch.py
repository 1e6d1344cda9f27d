"""Starting the processes of a distributed job on this machine."""

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from densekit.ops.process_end import end_of_process
from densekit.runtime.utils import comm

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Runs ``main_func(*args)`` in as many processes as asked for, joined in one process group.

    Call it on every machine of the job. One process in all runs in this very process. Without CUDA the processes talk
    through gloo.

    Args:
        main_func: a function of a module's top level, because it travels to new processes by name.
        num_gpus_per_machine: processes on this machine; with CUDA each has the GPU of its local rank.
        num_machines: machines in the job.
        machine_rank: this machine's number, from 0.
        dist_url: where the processes meet, ``tcp://host:port``; ``"auto"`` takes a free port of this machine.
        args: arguments of ``main_func``.
        timeout: how long a collective call may take.

    Raises:
        ValueError: ``"auto"`` for several machines, or more processes than GPUs.
    """
    if num_machines * num_gpus_per_machine <= 1:
        main_func(*args)
        return
    if num_machines > 1 and dist_url in (None, "auto"):
        raise ValueError(
            "Several machines need one --dist-url that all of them reach, for example tcp://10.0.0.1:29500."
        )
    if torch.cuda.is_available() and num_gpus_per_machine > torch.cuda.device_count():
        raise ValueError(
            f"{num_gpus_per_machine} processes were asked for and there are {torch.cuda.device_count()} GPUs."
        )
    if dist_url in (None, "auto"):
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    group = {"num_machines": num_machines, "machine_rank": machine_rank, "dist_url": dist_url, "timeout": timeout}
    # start_processes raises the first worker's error with its traceback and stops the others.
    mp.start_processes(_worker, args=(num_gpus_per_machine, group, main_func, args), nprocs=num_gpus_per_machine)


def _worker(local_rank: int, local_size: int, group: dict[str, Any], main_func: Callable[..., Any], args: Any) -> None:
    """Joins the process group and runs the job."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_rank)
    dist.init_process_group(
        backend="nccl" if cuda else "gloo",
        init_method=group["dist_url"],
        world_size=group["num_machines"] * local_size,
        rank=group["machine_rank"] * local_size + local_rank,
        timeout=group["timeout"],
    )
    comm.create_local_process_group(local_size)
    comm.synchronize()
    with end_of_process():
        try:
            main_func(*args)
        finally:
            dist.destroy_process_group()


def _free_port() -> int:
    """A port nobody listens on now: two jobs on one machine must not meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
