"""The named options of a run: what the command line or a call says beside the configuration; no torch is needed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from densekit.d2.config import CfgNode

__all__ = ["Processes", "RunOptions"]


class Processes(Protocol):
    """Options of a job that the start of its processes reads; they travel to the processes, so they must pickle."""

    @property
    def num_gpus(self) -> int:
        """Processes on this machine, with a GPU each unless they run on the CPU."""

    @property
    def num_machines(self) -> int:
        """Machines in the job."""

    @property
    def machine_rank(self) -> int:
        """The number of this machine, from 0."""

    @property
    def dist_url(self) -> str:
        """The rendezvous of the processes, ``tcp://HOST:PORT``, or ``auto`` for a free port of this machine."""


@dataclass(frozen=True)
class RunOptions:
    """A training, an evaluation or a replayed step.

    Attributes:
        config_file: the path of the configuration; "" for the defaults, or where ``cfg`` is given.
        opts: ``[KEY, VALUE, KEY, VALUE, ...]`` that override it.
        cfg: a configuration instead of a file.
        datasets: a YAML file of own data sets.
        train_data: one data set to train on, an entry of such a file in one line.
        val_data: the same to evaluate on.
        resume: "auto" goes on from the last checkpoint in OUTPUT_DIR, if any; "must" refuses if there is none; "never"
            begins anew.
        eval_only: evaluate MODEL.WEIGHTS and stop.
        replay: the folder of a step to run again; "" for none.
        num_gpus, num_machines, machine_rank, dist_url: as in :class:`Processes`.
    """

    config_file: str = ""
    opts: Sequence[Any] = ()
    cfg: "CfgNode | None" = field(default=None, repr=False)
    datasets: str = ""
    train_data: str = ""
    val_data: str = ""
    resume: str = "never"
    eval_only: bool = False
    replay: str = ""
    num_gpus: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"
