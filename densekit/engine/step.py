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
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from densekit.d2.engine import HookBase, SimpleTrainer
from densekit.d2.utils import comm
from densekit.d2.utils.events import get_event_storage
from densekit.data.progress import Progress
from densekit.engine.errors import NotFiniteError
from densekit.engine.failed_forward import NOT_SHARED
from densekit.engine.moving_buffers import MovingBuffers
from densekit.engine.phases import BeforeUpdate, LearningPhase
from densekit.engine.randomness import Moment
from densekit.engine.step_record import PhaseNumbers, StepRecord, UnreadNumbers
from densekit.solver import Clipping

__all__ = ["SettleHook", "StepRecord", "TrainingStep", "cut", "listeners", "tell"]


class TrainingStep(SimpleTrainer):
    """A SimpleTrainer whose step is cut into micro-batches and phases, and refuses to learn from what is not finite.

    Args:
        model: takes a batch, returns a dict of scalar losses or one scalar.
        data_loader: an endless iterable of batches; with ``accumulate`` above 1 they are sequences.
        optimizer: one whose kernels are fused decides about a step on the device.
        phases: of the step, instead of one with the model and the optimizer.
        accumulate: into how many micro-batches of equal size a batch is cut; losses and gradients are their means.
        precision: of the forward pass; None for that of the weights. float16 scales the losses.
        clipping: of all gradients together; of an ordinary step.
        nan_skip: how many steps in a row may be skipped because they are not finite.
        on_bad_step: called with the record of the first of such steps in a row, the weights being those before it; and
            whether this process alone knows. Returns what to tell the user.
        plan: the length of the run, told to those modules of the model that ask for it; None tells nothing.

    Attributes:
        phases: as above.
        refused: whether the last step has changed nothing; on a GPU a tensor of one element, which has it there.
        on_bad_step, plan: as above.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        phases: Sequence[LearningPhase] = (),
        accumulate: int = 1,
        precision: torch.dtype | None = None,
        clipping: Clipping | None = None,
        nan_skip: int = 0,
        on_bad_step: Callable[[StepRecord, bool], str] = lambda record, alone: "",
        plan: Progress | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.accumulate, self.plan = accumulate, plan
        self.phases = list(phases)
        if not phases:
            shares = nan_skip > 0
            ordinary = LearningPhase(model, optimizer, precision=precision, clipping=clipping, shares=shares)
            self.phases.append(ordinary)
        self._nan_skip, self.on_bad_step = nan_skip, on_bad_step
        self._buffers = MovingBuffers(model)
        self._told = listeners(model)
        self._decides_on_device = all(phase.decides_on_device for phase in self.phases)
        self._unread: UnreadNumbers | None = None
        self.refused: bool | Tensor = False
        self._skipped = self._skipped_in_a_row = 0

    @property
    def grad_scaler(self) -> Any:
        """Of the losses of the first phase in float16, else None."""
        return self.phases[0].grad_scaler

    def run_step(self) -> None:
        if not self.model.training:
            raise RuntimeError("The model was left in evaluation mode; call model.train() after an evaluation.")
        if self.plan is not None:
            tell(self._told, self.plan.at(self.iter))
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        record = StepRecord(
            self.iter,
            list(getattr(self.data_loader, "last_files", ())),
            Moment(),
            max(group["lr"] for phase in self.phases for group in phase.optimizer.param_groups),
        )
        self._buffers.remember()
        _Step(self, record, cut(batch, self.accumulate), data_time).run()

    def settle(self) -> None:
        """Reads what the device has said of the last step and stores it; to be called in all processes alike.

        Raises:
            NotFiniteError: that step was not finite, and is not to be skipped.
        """
        if self._unread is None:
            return
        record, self._unread = self._unread.read(), None
        if record.has_finite_losses and self._has_usable_norms(record):
            self._skipped_in_a_row = 0
            self._store(record)
        else:
            self._refuse(record, alone=False)

    def _has_usable_norms(self, record: StepRecord) -> bool:
        """Tells whether the norms are numbers, or only too large for the scale of their losses.

        Gradients that overflow are the ordinary way in which the scale is found, until it is too small to be the cause.
        """
        if self.grad_scaler is None:
            return math.isfinite(record.norm)
        of_phases = record.phases.values() or [{"norm": record.norm, "loss_scale": record.loss_scale}]
        return all(math.isfinite(phase["norm"]) or phase["loss_scale"] >= 1 for phase in of_phases)

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
        norms = {"": record.norm} | {f"/{name}": phase["norm"] for name, phase in record.phases.items()}
        scales = {f"/{name}": phase["loss_scale"] for name, phase in record.phases.items()} or {"": record.loss_scale}
        for name, value in norms.items():
            if math.isfinite(value):
                storage.put_scalar(f"grad_norm{name}", value, cur_iter=iteration)
        for name, value in scales.items() if self.grad_scaler else ():
            storage.put_scalar(f"[metric]grad_scaler{name}", value, cur_iter=iteration)

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
        files = ", ".join(record.files)
        what = f"Iteration {record.iteration}: {record.in_words()}. Its batch was made of: {files}."
        if stops:
            skipping = "SOLVER.NAN_SKIP N would skip up to N such steps in a row."
            if lonely and self._nan_skip:
                skipping = NOT_SHARED
            raise NotFiniteError(
                f"{what} Common causes are a learning rate that is too high (SOLVER.BASE_LR, SOLVER.WARMUP_ITERS), "
                "gradients that are not clipped, or boxes without area in these images. The weights are those before "
                f"the step. {skipping} {told}"
            )
        # torch warns of schedules that go on without a first step.
        warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler.step\(\)` before", UserWarning)
        if comm.is_main_process():
            get_event_storage().put_scalar("skipped_steps", self._skipped, False, record.iteration)
        logging.getLogger(__name__).warning(
            f"{what} The step is skipped, {self._skipped_in_a_row} of at most {self._nan_skip} in a row "
            f"(SOLVER.NAN_SKIP). {told}"
        )

    def state_dict(self) -> dict[str, Any]:
        first, *others = ((phase.name, phase.state_dict()) for phase in self.phases)
        return super().state_dict() | first[1] | ({"phases": dict(others)} if others else {})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        first, *others = self.phases
        known = state_dict.get("phases", {})
        if differ := known.keys() ^ {phase.name for phase in others}:
            raise ValueError(
                f"The checkpoint is of a training with other phases; {', '.join(sorted(differ))} is not in both. "
                "Resume with the configuration of the run."
            )
        super(SimpleTrainer, self).load_state_dict(state_dict)  # whose own would take this machine's kernels away
        first.load_state_dict(state_dict)
        for phase in others:
            phase.load_state_dict(known[phase.name])


class _Step:
    """One step while it runs.

    Args:
        owner: the training.
        record: of the step.
        parts: its micro-batches.
        data_time: seconds that this process waited for them.
    """

    def __init__(self, owner: TrainingStep, record: StepRecord, parts: Sequence[Any], data_time: float) -> None:
        self._owner, self._record, self._parts, self._data_time = owner, record, parts, data_time
        self._on_device = owner._decides_on_device
        self._done: list[tuple[LearningPhase, PhaseNumbers]] = []
        self._waiting: list[tuple[LearningPhase, PhaseNumbers]] = []  # for the end of the step
        self._before: list[BeforeUpdate] = []

    def run(self) -> None:
        """Computes the gradients of each phase and changes the weights, if the whole step is finite."""
        owner, record = self._owner, self._record
        phases = [phase for phase in owner.phases if phase.takes_part(record.iteration)]
        bad: Tensor = torch.zeros(())
        for phase in phases:
            try:
                numbers, error = phase.learn(self._parts, self._data_time)
            except FloatingPointError as failure:  # raised by models that look at their outputs
                owner.settle()
                self._take_back()
                record.error = str(failure)
                owner._refuse(record, alone=True)
                return
            record.error = record.error or error
            owner.after_backward()
            bad = bad | numbers.is_bad() if self._done else numbers.is_bad()
            if not self._done:
                owner.settle()
            self._done.append((phase, numbers))
            if not self._on_device and bad.item():
                self._take_back()
                self._announce()
                owner.settle()
                return
            if phase.is_joint or phase is phases[-1]:
                self._waiting.append((phase, numbers))
            else:
                self._before.append(BeforeUpdate(phase.optimizer))
                phase.update(numbers.norm, bad if self._on_device else None)
        self._announce()
        if not self._on_device:
            owner.settle()
        self._finish(bad)

    def _announce(self) -> None:
        self._owner._unread = UnreadNumbers(self._record, [numbers for _, numbers in self._done])

    def _finish(self, bad: Tensor) -> None:
        """Makes the updates that wait for the end; on a device that finds the step bad it takes the others back."""
        for phase, numbers in self._waiting:
            phase.update(numbers.norm, bad if self._on_device else None)
        if self._on_device:
            for before in self._before:
                before.restore_where(bad)
            self._owner._buffers.undo_where(bad)
        self._owner.refused = bad if self._on_device else False
        self._adapt_scales()

    def _take_back(self) -> None:
        """Undoes all that the step has changed."""
        for before in reversed(self._before):
            before.restore()
        self._owner._buffers.undo()
        self._owner.refused = True
        self._adapt_scales()

    def _adapt_scales(self) -> None:
        for phase, _ in self._done:
            if phase.grad_scaler:
                phase.grad_scaler.update()


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


def listeners(model: nn.Module) -> list[Any]:
    """The modules of a model that have a method ``begin_iteration(progress: Progress)``."""
    return [module for module in model.modules() if callable(getattr(module, "begin_iteration", None))]


def tell(told: Iterable[Any], progress: Progress) -> None:
    """Tells modules which iteration begins."""
    for module in told:
        module.begin_iteration(progress)


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
