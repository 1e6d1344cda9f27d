"""Starting the processes of a job: none, our own, or those that torchrun or SLURM has started already."""

import multiprocessing
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from densekit.d2.engine import launch as spawn
from densekit.d2.utils import comm
from densekit.engine.errors import user_errors
from densekit.engine.preemption import SIGNALS

# SLURM_MAX_NORMAL_STEP_ID of slurm.h; the numbers above are those of batch scripts, interactive shells and the like.
_LAST_SLURM_STEP = 0xFFFFFFF0


@dataclass(frozen=True)
class Place:
    """This process among those of a job that something else has started.

    Attributes:
        starter: who started it, for messages.
        rank, world_size: among all processes.
        local_rank, local_size: among those of this machine.
    """

    starter: str
    rank: int
    world_size: int
    local_rank: int
    local_size: int


def place_from_environment(env: Mapping[str, str]) -> Place | None:
    """Where torchrun or ``srun`` has put this process; ``None`` if neither started it."""
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= env.keys():
        world = int(env["WORLD_SIZE"])
        return Place(
            "torchrun", int(env["RANK"]), world, int(env["LOCAL_RANK"]), int(env.get("LOCAL_WORLD_SIZE", world))
        )
    if _is_srun_step(env) and int(env["SLURM_STEP_NUM_TASKS"]) > 1:
        world, machines = int(env["SLURM_STEP_NUM_TASKS"]), int(env.get("SLURM_STEP_NUM_NODES", "1"))
        if world % machines:
            raise ValueError(f"SLURM gives {world} tasks to {machines} machines; every machine needs the same number.")
        return Place("SLURM", int(env["SLURM_PROCID"]), world, int(env.get("SLURM_LOCALID", "0")), world // machines)
    return None


def _is_srun_step(env: Mapping[str, str]) -> bool:
    """Whether this process is a task of ``srun``.

    A batch script has SLURM_PROCID and SLURM_NTASKS too, though it runs once whatever number of tasks is allocated.
    """
    step = env.get("SLURM_STEP_ID", "")
    is_normal = step.isdigit() and int(step) <= _LAST_SLURM_STEP
    return is_normal and {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"} <= env.keys()


def launch(main: Callable[[Namespace], Any], args: Namespace, device: str) -> None:
    """Runs ``main(args)`` in every process of the job.

    Args:
        main: a function of a module's top level, because it travels to new processes by name.
        args: the command line, with ``num_gpus, num_machines, machine_rank, dist_url``.
        device: ``MODEL.DEVICE``; processes on ``"cpu"`` talk through gloo, also where there are GPUs.

    Flags that contradict the environment or the machine end the process with one line.
    """
    on_cpu = not device.startswith("cuda")
    with user_errors():
        place = place_from_environment(os.environ)
        if place:
            _refuse_double_start(place, args)
        _share_machine(place.local_size if place else args.num_gpus, on_cpu)
    if place is None:
        _spawn(main, args)
        return
    _join(place, on_cpu)
    try:
        main(args)
    finally:
        dist.destroy_process_group()


def _share_machine(local_size: int, on_cpu: bool) -> None:
    """One GPU for each process, or a fair share of the CPU's cores."""
    if on_cpu and local_size > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the host takes NCCL wherever it sees a GPU
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // local_size)))
    elif not on_cpu and local_size > torch.cuda.device_count():
        raise ValueError(
            f"{local_size} processes need {local_size} GPUs, and this machine has {torch.cuda.device_count()}: lower "
            "--num-gpus, or set MODEL.DEVICE cpu to run the processes on the CPU."
        )


def _refuse_double_start(place: Place, args: Namespace) -> None:
    if args.num_gpus not in (1, place.local_size) or args.num_machines > 1:
        raise ValueError(
            f"{place.starter} has started {place.local_size} processes on this machine, and the flags --num-gpus "
            f"{args.num_gpus} --num-machines {args.num_machines} ask for more of them: leave these flags out under "
            f"{place.starter}, or start with plain python."
        )


def _join(place: Place, on_cpu: bool) -> None:
    """Joins the process group of the starter and takes this process's GPU."""
    if place.starter == "SLURM":
        _slurm_rendezvous(place)
    if not on_cpu:
        torch.cuda.set_device(place.local_rank)
    backend = "gloo" if on_cpu else "nccl"
    dist.init_process_group(backend, init_method="env://", rank=place.rank, world_size=place.world_size)
    comm.create_local_process_group(place.local_size)
    comm.synchronize()


def _slurm_rendezvous(place: Place) -> None:
    """Where to meet, which torchrun says and srun does not."""
    if "MASTER_ADDR" not in os.environ:
        if place.local_size != place.world_size:
            raise ValueError(
                "Under SLURM with several machines set MASTER_ADDR to the first of them before srun: export "
                "MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)"
            )
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    # One number for all tasks of a job and another for other jobs, outside the range that systems hand out.
    os.environ.setdefault("MASTER_PORT", str(15000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 15000))


@contextmanager
def _signals_passed_on() -> Iterator[None]:
    """A scheduler may know only this process, but those that train can save what they have."""

    def pass_on(number: int, frame: Any) -> None:
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_rank(main: Callable[[Namespace], Any], args: Namespace, loaders: str) -> None:
    """Runs ``main`` in a process whose own processes, those of the loaders, start as in a job of one process.

    In a process that was spawned they would be spawned as well, each importing everything anew.
    """
    multiprocessing.set_start_method(loaders, force=True)
    main(args)


def _spawn(main: Callable[[Namespace], Any], args: Namespace) -> None:
    """Starts the processes; an error in one of them ends the job with that error's own traceback and code."""
    try:
        with _signals_passed_on() if args.num_gpus * args.num_machines > 1 else nullcontext():
            loaders = multiprocessing.get_start_method()
            spawn(_in_rank, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, (main, args, loaders))
    except ProcessExitedException as error:
        sys.exit(error.exit_code)  # the process has said why
    except ProcessRaisedException as error:
        sys.exit(str(error))
