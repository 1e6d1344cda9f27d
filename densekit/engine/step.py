"""One step of the training: micro-batches, mixed precision, gradient norms, and losses that nobody waits for.

What the host wants to know of a step (the losses of all processes, times, gradient norms) leaves the device as one
small tensor. On a GPU it is read while the next step is under way, so that the host never waits for work that it has
just asked for; on the CPU it is read at once.

A step whose losses or gradients are not finite changes nothing: on a GPU the optimizer's fused kernels read the verdict
where it is, on the device, and leave weights and moments alone; elsewhere the host reads it. Losses and norms are
shared among all processes first, so all of them reach the same verdict.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from densekit.d2.engine import HookBase, SimpleTrainer
from densekit.d2.utils import comm
from densekit.d2.utils.events import get_event_storage
from densekit.engine.errors import NotFiniteError
from densekit.engine.failed_forward import NOT_SHARED, TrainingForward
from densekit.engine.moving_buffers import MovingBuffers
from densekit.engine.randomness import Moment
from densekit.solver import GRADIENT_NORM, complete_state


@dataclass
class StepRecord:
    """What is known of a step in this process.

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
    error: str = ""

    @property
    def mean_losses(self) -> dict[str, float]:
        """Name -> mean over all processes."""
        names = self.losses[0] if self.losses else {}
        return {name: sum(losses[name] for losses in self.losses) / len(self.losses) for name in names}

    @property
    def has_finite_losses(self) -> bool:
        """Whether there are losses, and all of them are numbers."""
        values = [value for losses in self.losses for value in losses.values()]
        return bool(values) and all(map(math.isfinite, values))


class TrainingStep(SimpleTrainer):
    """A SimpleTrainer whose step is cut into micro-batches and refuses to learn from what is not finite.

    Args:
        model: takes a batch, returns a dict of scalar losses or one scalar.
        data_loader: an endless iterable of batches; with ``accumulate`` above 1 they are sequences.
        optimizer: one whose kernels are fused decides about a step on the device.
        accumulate: into how many micro-batches of equal size a batch is cut; losses and gradients are their means.
        precision: of the forward pass; None for that of the weights. float16 scales the losses.
        norm_type: of the gradient norms.
        nan_skip: how many steps in a row may be skipped because they are not finite.
        on_bad_step: called with the record of the first of such steps in a row, the weights being those before it; and
            whether this process alone knows. Returns what to tell the user.

    Attributes:
        grad_scaler: of the losses in float16, else None.
        on_bad_step: as above.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        accumulate: int = 1,
        precision: torch.dtype | None = None,
        norm_type: float = 2.0,
        nan_skip: int = 0,
        on_bad_step: Callable[[StepRecord, bool], str] = lambda record, alone: "",
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.accumulate, self.precision = accumulate, precision
        self._device = next(model.parameters()).device
        scales = precision is torch.float16
        self.grad_scaler = torch.amp.GradScaler(self._device.type) if scales else None
        self._forward_pass = TrainingForward(model, shares=nan_skip > 0)
        self._norm_type, self._nan_skip, self.on_bad_step = norm_type, nan_skip, on_bad_step
        self._modules = _parameters_by_module(getattr(model, "module", model))
        self._buffers = MovingBuffers(model)
        self._decides_on_device = all(group.get("fused") for group in optimizer.param_groups)
        self._unread: _Unread | None = None
        self._skipped = self._skipped_in_a_row = 0

    def run_step(self) -> None:
        if not self.model.training:
            raise RuntimeError("The model was left in evaluation mode; call model.train() after an evaluation.")
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        record = StepRecord(
            self.iter,
            list(getattr(self.data_loader, "last_files", ())),
            Moment(),
            max(group["lr"] for group in self.optimizer.param_groups),
        )
        self._buffers.remember()
        self.optimizer.zero_grad()
        try:
            names, losses = self._learn(batch, record)
        except FloatingPointError as error:  # raised by models that look at their outputs
            self.settle()
            self._buffers.undo()
            record.error = str(error)
            self._refuse(record, alone=True)
            return
        self.after_backward()
        losses = _of_all_processes(losses, data_time)
        norms, norm = self._gradient_norms()
        bad = ~(torch.isfinite(losses).all() & torch.isfinite(norm))
        self.settle()
        self._unread = _Unread(record, names, list(self._modules), losses, torch.stack([*norms, norm, self._scale()]))
        setattr(self.optimizer, GRADIENT_NORM, norm)
        if self._decides_on_device:
            self._step_unless(bad)
        elif bad.item():
            self._buffers.undo()
            self.settle()
        else:
            self.settle()
            self.optimizer.step()
        if self.grad_scaler:
            self.grad_scaler.update()

    def _learn(self, batch: Any, record: StepRecord) -> tuple[list[str], Tensor]:
        """Returns the names and the (L,) values of the losses, means over the micro-batches; notes what failed."""
        sums: dict[str, Tensor] = {}
        parts = cut(batch, self.accumulate)
        for number, part in enumerate(parts, start=1):
            with _gradients_shared(self.model, number == len(parts)) if len(parts) > 1 else nullcontext():
                losses, total, error = self._losses_of(part)
                record.error = record.error or error
                total = total if len(parts) == 1 else total / len(parts)
                (self.grad_scaler.scale(total) if self.grad_scaler else total).backward()
            for name, loss in losses.items():
                value = loss.detach().float().reshape(())
                sums[name] = sums[name] + value if name in sums else value
        values = torch.stack(list(sums.values()))
        return list(sums), values if len(parts) == 1 else values / len(parts)

    def _losses_of(self, batch: Any) -> tuple[dict[str, Tensor], Tensor, str]:
        """The losses by name, their sum, and the message of an error in whose place they are."""
        with torch.autocast(self._device.type, dtype=self.precision, enabled=self.precision is not None):
            losses, error = self._forward_pass(batch)
            total: Any = sum(losses.values())
            return losses, total, error

    def _gradient_norms(self) -> tuple[list[Tensor], Tensor]:
        """The norm of the gradients of each top module, and of all, of the losses as they are without their scale."""
        if self.grad_scaler:
            self.grad_scaler.unscale_(self.optimizer)
        norms = []
        for parameters in self._modules.values():
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            norm = get_total_norm(gradients, self._norm_type) if gradients else torch.zeros((), device=self._device)
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of sharded gradients
            norms.append(norm.float())
        return norms, torch.linalg.vector_norm(torch.stack(norms), self._norm_type)

    def _scale(self) -> Tensor:
        one = torch.ones((), device=self._device)
        return self.grad_scaler.scale(one) if self.grad_scaler else one

    def _step_unless(self, bad: Tensor) -> None:
        """Changes the weights where the flag is false, without waiting for the device."""
        # The protocol between GradScaler and fused optimizers, which works without the former as well.
        self.optimizer.grad_scale, self.optimizer.found_inf = None, bad.float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self._buffers.undo_where(bad)

    def settle(self) -> None:
        """Reads what the device has said of the last step and stores it; to be called in all processes alike.

        Raises:
            NotFiniteError: that step was not finite, and is not to be skipped.
        """
        if self._unread is None:
            return
        record, self._unread = self._unread.read(), None
        # Gradients that overflow are the ordinary way in which the scale of the losses is found, until it is too small
        # to be the cause.
        overflows = self.grad_scaler is not None and record.loss_scale >= 1
        if record.has_finite_losses and (math.isfinite(record.norm) or overflows):
            self._skipped_in_a_row = 0
            self._store(record)
        else:
            self._refuse(record, alone=False)

    def _store(self, record: StepRecord) -> None:
        storage, iteration = get_event_storage(), record.iteration
        storage.put_scalar("rank_data_time", record.data_times[comm.get_rank()], cur_iter=iteration)
        if not comm.is_main_process():
            return
        losses = record.mean_losses
        storage.put_scalar("data_time", max(record.data_times), cur_iter=iteration)
        storage.put_scalar("total_loss", sum(losses.values()), cur_iter=iteration)
        for name, value in losses.items() if len(losses) > 1 else ():
            storage.put_scalar(name, value, cur_iter=iteration)
        if math.isfinite(record.norm):
            storage.put_scalar("grad_norm", record.norm, cur_iter=iteration)
        if self.grad_scaler:
            storage.put_scalar("[metric]grad_scaler", record.loss_scale, cur_iter=iteration)

    def _refuse(self, record: StepRecord, *, alone: bool) -> None:
        """Skips a step that was not finite, or ends the training.

        Args:
            record: of the step.
            alone: whether the other processes, if there are any, do not know; they cannot skip it then.
        """
        self._skipped += 1
        self._skipped_in_a_row += 1
        lonely = alone and comm.get_world_size() > 1
        stops = self._skipped_in_a_row > self._nan_skip or lonely
        if stops:
            self._buffers.undo()  # of the forward pass that is under way where losses arrive late
        told = self.on_bad_step(record, alone) if self._skipped_in_a_row == 1 else ""
        what = f"Iteration {record.iteration}: {_in_words(record)}. Its batch was made of: {', '.join(record.files)}."
        if stops:
            skipping = "SOLVER.NAN_SKIP N would skip up to N such steps in a row."
            if lonely and self._nan_skip:
                skipping = NOT_SHARED
            raise NotFiniteError(
                f"{what} Common causes are a learning rate that is too high (SOLVER.BASE_LR, SOLVER.WARMUP_ITERS), "
                "gradients that are not clipped, or boxes without area in these images. The weights are those before "
                f"the step. {skipping} {told}"
            )
        self.optimizer._opt_called = True  # type: ignore[attr-defined] # torch warns of schedules that go on without
        if comm.is_main_process():
            get_event_storage().put_scalar("skipped_steps", self._skipped, False, record.iteration)
        logging.getLogger(__name__).warning(
            f"{what} The step is skipped, {self._skipped_in_a_row} of at most {self._nan_skip} in a row "
            f"(SOLVER.NAN_SKIP). {told}"
        )

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | ({"grad_scaler": self.grad_scaler.state_dict()} if self.grad_scaler else {})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        kernels = [{key: group.get(key) for key in ("fused", "foreach")} for group in self.optimizer.param_groups]
        super().load_state_dict(state_dict)
        # The kernels are a matter of this machine, not of the one that wrote the checkpoint.
        for group, chosen in zip(self.optimizer.param_groups, kernels):
            group.update(chosen)
        complete_state(self.optimizer)
        if self.grad_scaler and state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


class SettleHook(HookBase):
    """Reads the last step's losses before somebody wants them: the writers, an evaluation, a checkpoint.

    Args:
        periods: of these, in iterations; 0 is never.
    """

    def __init__(self, *periods: int) -> None:
        self._periods = [period for period in periods if period > 0]

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done >= self.trainer.max_iter or any(done % period == 0 for period in self._periods):
            self.trainer._trainer.settle()

    def after_train(self) -> None:
        self.trainer._trainer.settle()


class _Unread:
    """The numbers of a step on their way from the device."""

    def __init__(
        self, record: StepRecord, losses: list[str], modules: list[str], values: Tensor, norms: Tensor
    ) -> None:
        """Starts the copy.

        Args:
            record: to complete.
            losses: L names.
            modules: M names.
            values: (W, L + 1), losses and seconds of each process.
            norms: (M + 2,), norms of the modules, of all gradients, and the scale of the losses.
        """
        self._record, self._losses, self._modules, self._processes = record, losses, modules, len(values)
        self._numbers = torch.cat([values.flatten(), norms]).to("cpu", non_blocking=True)
        self._arrival = torch.cuda.Event() if values.is_cuda else None
        if self._arrival is not None:
            self._arrival.record()

    def read(self) -> StepRecord:
        if self._arrival is not None:
            self._arrival.synchronize()
        numbers, record, width = self._numbers.tolist(), self._record, len(self._losses) + 1
        for process in range(self._processes):
            *losses, seconds = numbers[process * width : (process + 1) * width]
            record.losses.append(dict(zip(self._losses, losses)))
            record.data_times.append(seconds)
        *norms, record.norm, record.loss_scale = numbers[self._processes * width :]
        record.norms = dict(zip(self._modules, norms))
        return record


def _in_words(record: StepRecord) -> str:
    if record.error:
        return record.error.removesuffix(".")
    if not record.has_finite_losses:
        return f"The loss is infinite or NaN: {record.mean_losses}"
    bad = [name for name, norm in record.norms.items() if not math.isfinite(norm)]
    return f"The gradients of {', '.join(bad) or 'the model'} are infinite or NaN, with the losses {record.mean_losses}"


def _of_all_processes(losses: Tensor, data_time: float) -> Tensor:
    """The (L,) losses and the seconds of each process: (W, L + 1) on the device."""
    own = torch.cat([losses, losses.new_full((1,), data_time)])
    if comm.get_world_size() == 1:
        return own[None]
    gathered = own.new_empty(comm.get_world_size() * len(own))
    dist.all_gather_into_tensor(gathered, own)
    return gathered.view(-1, len(own))


def _parameters_by_module(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters by the name of their top module, or one level deeper if there is one alone."""
    trainable = [(name.split("."), value) for name, value in model.named_parameters() if value.requires_grad]
    depth = 1 if len({path[0] for path, _ in trainable}) > 1 else 2
    groups: dict[str, list[nn.Parameter]] = {}
    for path, parameter in trainable:
        groups.setdefault(".".join(path[: min(depth, max(len(path) - 1, 1))]), []).append(parameter)
    return groups


def cut(batch: Any, parts: int) -> Sequence[Any]:
    """The micro-batches of a batch, in its order.

    Raises:
        ValueError: it does not divide.
    """
    if parts == 1:
        return [batch]
    if len(batch) % parts:
        raise ValueError(f"A batch of {len(batch)} images does not divide into SOLVER.ACCUMULATE {parts} equal parts.")
    size = len(batch) // parts
    return [batch[start : start + size] for start in range(0, len(batch), size)]


@contextmanager
def _gradients_shared(model: nn.Module, shared: bool) -> Iterator[None]:
    """Whether the backward passes in the block share their gradients among the processes."""
    if isinstance(model, DistributedDataParallel):
        with nullcontext() if shared else model.no_sync():
            yield
        return
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(shared)
    yield
