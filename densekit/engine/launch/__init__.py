"""Starting the processes of a job: none, our own, or those that torchrun or SLURM has started already."""

import os
from collections.abc import Callable
from typing import Any

import torch

from densekit.engine.errors import user_errors
from densekit.engine.launch.elastic import continued
from densekit.engine.launch.joining import joined
from densekit.engine.launch.place import Place, place_from_environment
from densekit.engine.launch.rendezvous import rendezvous_from_environment
from densekit.engine.launch.spawning import spawn
from densekit.engine.preemption import leaving_on_signals
from densekit.ops.process_end import end_of_process
from densekit.run_options import Processes

__all__ = ["Place", "launch", "place_from_environment"]


def launch(main: Callable[[Any], Any], options: Processes, device: str) -> None:
    """Runs ``main(options)`` in every process of the job.

    Args:
        main: a function of a module's top level, because it travels to new processes by name.
        options: of the job, which ``main`` gets.
        device: ``MODEL.DEVICE``; processes on ``"cpu"`` talk through gloo, also where there are GPUs.

    A process that torchrun or SLURM has started ends with the job: there, the call does not return.

    Flags that contradict the environment or the machine end the process with one line.
    """
    on_cpu = not device.startswith("cuda")
    with user_errors():
        place = place_from_environment(os.environ)
        rendezvous = None
        if place:
            _refuse_double_start(place, options)
            rendezvous = rendezvous_from_environment(place, os.environ)
        _share_machine(place, options.num_gpus, on_cpu)
    if place and rendezvous:
        with end_of_process(), joined(place, rendezvous, on_cpu):
            main(continued(options, os.environ))
    elif options.num_gpus * options.num_machines > 1:
        with user_errors((ConnectionError, ValueError)):
            spawn(main, options, on_cpu)
    else:
        with leaving_on_signals():
            main(options)


def _share_machine(place: Place | None, num_gpus: int, on_cpu: bool) -> None:
    """One GPU for each process, or a fair share of the CPU's cores."""
    local_size = place.local_size if place else num_gpus
    if on_cpu and local_size > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what asks torch for GPUs must not find any
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // local_size)))
    elif not on_cpu and local_size > torch.cuda.device_count():
        if place and torch.cuda.device_count() == 1:
            return  # --gpus-per-task=1 shows each task its own GPU alone; NCCL refuses two processes on one
        raise ValueError(
            f"{local_size} processes need {local_size} GPUs, and this machine has {torch.cuda.device_count()}: lower "
            "--num-gpus, or set MODEL.DEVICE cpu to run the processes on the CPU."
        )


def _refuse_double_start(place: Place, options: Processes) -> None:
    if options.num_gpus not in (1, place.local_size) or options.num_machines > 1:
        raise ValueError(
            f"{place.starter} has started {place.local_size} processes on this machine, and the flags --num-gpus "
            f"{options.num_gpus} --num-machines {options.num_machines} ask for more of them: leave these flags out "
            f"under {place.starter}, or start with plain python."
        )
