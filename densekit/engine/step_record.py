"""Facts of a training step: in this process, and once the device has computed them, in all processes."""

import math
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from densekit.d2.utils import comm
from densekit.engine.randomness import Moment

__all__ = ["StepRecord", "UnreadNumbers", "of_all_processes"]


@dataclass
class StepRecord:
    """Facts of a step, as this process knows them.

    Attributes:
        iteration: its number.
        files: of its images, in this process.
        random: the random numbers before its forward pass.
        lr: the largest learning rate of all parameters.
        losses: name -> mean over the micro-batches, for each process; empty if the forward pass failed and no other
            process knows.
        data_times: seconds that each process waited for its images.
        norms: top module -> norm of its gradients.
        norm: of all gradients.
        loss_scale: that the losses were multiplied by; 1 without mixed precision in float16.
        phases: name -> norm and loss_scale of each phase that took part; empty for an ordinary step.
        error: of a forward pass that failed in this process.
    """

    iteration: int
    files: list[str]
    random: Moment
    lr: float
    losses: list[dict[str, float]] = field(default_factory=list)
    data_times: list[float] = field(default_factory=list)
    norms: dict[str, float] = field(default_factory=dict)
    norm: float = math.nan
    loss_scale: float = 1.0
    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    error: str = ""

    @property
    def mean_losses(self) -> dict[str, float]:
        """Name -> mean over all processes."""
        names = self.losses[0] if self.losses else {}
        return {name: sum(losses[name] for losses in self.losses) / len(self.losses) for name in names}

    @property
    def has_finite_losses(self) -> bool:
        """Tells whether there are losses, and all of them are numbers."""
        values = [value for losses in self.losses for value in losses.values()]
        return bool(values) and all(map(math.isfinite, values))

    def in_words(self) -> str:
        """Describes the fault of a step that is not finite."""
        if self.error:
            return self.error.removesuffix(".")
        if not self.has_finite_losses:
            return f"The loss is infinite or NaN: {self.mean_losses}"
        bad = [name for name, norm in self.norms.items() if not math.isfinite(norm)]
        return (
            f"The gradients of {', '.join(bad) or 'the model'} are infinite or NaN, with the losses {self.mean_losses}"
        )


@dataclass
class PhaseNumbers:
    """The numbers of one phase of a step, on the device.

    Attributes:
        name: of the phase.
        losses: L names.
        modules: M names.
        values: (W, L + 1), losses and seconds of each process.
        norms: (M,), of the gradients of the modules.
        norm: of all of them.
        scale: of the losses.
    """

    name: str
    losses: list[str]
    modules: list[str]
    values: Tensor
    norms: list[Tensor]
    norm: Tensor
    scale: Tensor

    def is_bad(self) -> Tensor:
        """Tells whether a loss or a gradient of any process is infinite or NaN."""
        return ~(torch.isfinite(self.values).all() & torch.isfinite(self.norm))

    def flat(self) -> Tensor:
        """Returns all numbers as one vector, as :class:`UnreadNumbers` reads it."""
        return torch.cat([self.values.flatten(), torch.stack([*self.norms, self.norm, self.scale])])


class UnreadNumbers:
    """The numbers of a step on their way from the device."""

    def __init__(self, record: StepRecord, phases: list[PhaseNumbers]) -> None:
        """Starts the copy.

        Args:
            record: to complete.
            phases: of the step, at least one.
        """
        self._record, self._phases = record, phases
        every = [phase.flat() for phase in phases]
        self._numbers = (every[0] if len(every) == 1 else torch.cat(every)).to("cpu", non_blocking=True)
        self._arrival = torch.cuda.Event() if every[0].is_cuda else None
        if self._arrival is not None:
            self._arrival.record()

    def read(self) -> StepRecord:
        """Waits for the numbers and returns the record with them."""
        if self._arrival is not None:
            self._arrival.synchronize()
        numbers, record, scales = self._numbers.tolist(), self._record, []
        record.losses = [{} for _ in range(len(self._phases[0].values))]
        for phase in self._phases:
            record.data_times = []
            for losses in record.losses:
                *values, seconds = _take(numbers, len(phase.losses) + 1)
                losses |= dict(zip(phase.losses, values))
                record.data_times.append(seconds)
            *norms, record.norm, scale = _take(numbers, len(phase.modules) + 2)
            record.norms |= dict(zip(phase.modules, norms))
            scales.append(scale)
            if phase.name:
                record.phases[phase.name] = {"norm": record.norm, "loss_scale": scale}
        record.loss_scale = scales[0]
        if len(self._phases) > 1:
            record.norm = math.hypot(*(phase["norm"] for phase in record.phases.values()))
        return record


def _take(numbers: list[float], count: int) -> list[float]:
    """Removes the first numbers and returns them."""
    taken = numbers[:count]
    del numbers[:count]
    return taken


def of_all_processes(losses: Tensor, data_time: float) -> Tensor:
    """The (L,) losses and the seconds of each process: (W, L + 1) on the device."""
    own = torch.cat([losses, losses.new_full((1,), data_time)])
    if comm.get_world_size() == 1:
        return own[None]
    gathered = own.new_empty(comm.get_world_size() * len(own))
    dist.all_gather_into_tensor(gathered, own)
    return gathered.view(-1, len(own))
