"""Ranks of this process in its job, as torchrun or SLURM tell them."""

from collections.abc import Mapping
from dataclasses import dataclass

# SLURM_MAX_NORMAL_STEP_ID of slurm.h; the numbers above are those of batch scripts, interactive shells and the like.
_LAST_SLURM_STEP = 0xFFFFFFF0


@dataclass(frozen=True)
class Place:
    """This process among those of a job.

    Attributes:
        starter: who started it, for messages: "torchrun", "SLURM" or "--num-gpus".
        rank, world_size: among all processes.
        local_rank, local_size: among those of this machine.
    """

    starter: str
    rank: int
    world_size: int
    local_rank: int
    local_size: int


def place_from_environment(env: Mapping[str, str]) -> Place | None:
    """Reads the ranks that torchrun or ``srun`` gave this process; ``None`` if neither started it."""
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
    """Tells whether this process is a task of ``srun``.

    A batch script has SLURM_PROCID and SLURM_NTASKS too, though it runs once whatever number of tasks is allocated.
    """
    step = env.get("SLURM_STEP_ID", "")
    is_normal = step.isdigit() and int(step) <= _LAST_SLURM_STEP
    return is_normal and {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"} <= env.keys()
