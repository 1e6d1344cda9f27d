"""The training loop: iterations with hooks around them, and the two usual kinds of iteration."""

import logging
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from densekit.runtime.utils import comm
from densekit.runtime.utils.events import EventStorage, get_event_storage


class HookBase:
    """Something that happens around the iterations of a trainer.

    For each iteration the trainer calls ``before_step``, its own step (in which ``after_backward`` falls) and
    ``after_step``; ``before_train`` and ``after_train`` enclose them all. What takes time belongs into ``after_step``:
    the timer measures from ``before_step`` on.

    Attributes:
        trainer: the trainer, set (as a weak reference) when the hook is registered.
    """

    trainer: Any = None

    def before_train(self) -> None:
        """Called before the first iteration."""

    def after_train(self) -> None:
        """Called after the last iteration, and when an error ends the training."""

    def before_step(self) -> None:
        """Called before each iteration."""

    def after_backward(self) -> None:
        """Called between the backward pass and the update of each iteration."""

    def after_step(self) -> None:
        """Called after each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state that a resume restores; a hook that returns any also defines ``load_state_dict``."""
        return {}


class TrainerBase:
    """A loop of iterations with hooks; subclasses say what an iteration is.

    Attributes:
        iter: the current iteration.
        start_iter: the first iteration of this run, 0 or where it resumes.
        max_iter: one past the last iteration.
        storage: the EventStorage that is open during training.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = 0
        self.start_iter = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Appends hooks, which run in the order of their registration; ``None`` is skipped."""
        for hook in hooks:
            if hook is None:
                continue
            if not isinstance(hook, HookBase):
                raise TypeError(f"{hook!r} is not a HookBase.")
            hook.trainer = weakref.proxy(self)
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> Any:
        """Runs the iterations ``start_iter`` to ``max_iter - 1``; ``after_train`` runs whatever happens."""
        logger = logging.getLogger(__name__)
        logger.info(f"Starting training from iteration {start_iter}")
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                # Only a loop that ran to its end counts as max_iter iterations; hooks tell success by it.
                self.iter += 1
            except Exception:
                # For the log file: on the screen it would stand twice, as whoever catches the error shows it.
                logger.debug(f"Training stopped at iteration {self.iter}:", exc_info=True)
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """``"iteration"`` and, by class name, what the ``"hooks"`` want to keep (the first of each class)."""
        state: dict[str, Any] = {"iteration": self.iter}
        hooks: dict[str, Any] = {}
        for hook in self._hooks:
            if kept := hook.state_dict():
                hooks.setdefault(type(hook).__qualname__, kept)
        return state | ({"hooks": hooks} if hooks else {})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.iter = state_dict["iteration"]
        by_name: dict[str, Any] = {}
        for hook in self._hooks:
            by_name.setdefault(type(hook).__qualname__, hook)
        for name, kept in state_dict.get("hooks", {}).items():
            if name in by_name:
                by_name[name].load_state_dict(kept)
            else:
                logging.getLogger(__name__).warning(
                    f"The state of hook {name!r} is ignored: this run has no such hook."
                )


class SimpleTrainer(TrainerBase):
    """One iteration = one batch, one sum of losses, one backward pass, one update.

    The losses of a step leave the device together, in one copy, before the update: a loss that is not finite must stop
    the training before it reaches the weights.

    Args:
        model: takes a batch, returns a dict of scalar losses or one scalar; it is put into training mode here.
        data_loader: an endless iterable of batches.
        optimizer: steps once in each iteration.
        gather_metric_period: losses are gathered, checked and stored every so many iterations.
        zero_grad_before_forward: whether gradients are cleared before the forward pass, as an optimizer that
            accumulates by itself needs; otherwise after it.
        async_write_metrics: whether losses are gathered and stored in another thread.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        self._batches: Iterator[Any] | None = None
        self._writer_thread = ThreadPoolExecutor(max_workers=1) if async_write_metrics else None
        self._last_write: Future[None] | None = None

    def run_step(self) -> None:
        batch, data_time = self._next_batch()
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses, total = self._forward(batch)
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self._backward(total)
        self.after_backward()
        self._record(losses, data_time)
        self._update()

    def _next_batch(self) -> tuple[Any, float]:
        """The next batch and the seconds spent waiting for it."""
        if not self.model.training:
            raise RuntimeError("The model was left in evaluation mode; call model.train() after an evaluation.")
        start = time.perf_counter()
        return next(self._data_loader_iter), time.perf_counter() - start

    def _forward(self, batch: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The losses by name and their sum."""
        losses = self.model(batch)
        if isinstance(losses, torch.Tensor):
            losses = {"total_loss": losses}
        return losses, sum(losses.values())

    def _backward(self, total: torch.Tensor) -> None:
        total.backward()

    def _update(self) -> None:
        self.optimizer.step()

    @property
    def _data_loader_iter(self) -> Iterator[Any]:
        if self._batches is None:
            self._batches = iter(self.data_loader)
        return self._batches

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable[Any]]) -> None:
        """Replaces the data loader by a new one; the old one is let go before the new one is built."""
        self._batches = None
        del self.data_loader
        self.data_loader = data_loader_builder()

    def _record(self, losses: Mapping[str, torch.Tensor], data_time: float) -> None:
        """Stores the losses of this step if its turn has come."""
        if (self.iter + 1) % self.gather_metric_period:
            return
        if self._writer_thread is None:
            self.write_metrics(losses, data_time, self.iter)
            return
        if self._last_write is not None:
            self._last_write.result()  # one write in flight at most; its error belongs to this thread
        self._last_write = self._writer_thread.submit(self.write_metrics, losses, data_time, self.iter)

    @staticmethod
    def write_metrics(loss_dict: Mapping[str, torch.Tensor], data_time: float, cur_iter: int, prefix: str = "") -> None:
        """Averages the losses over all processes and stores them, with their sum as ``total_loss``.

        Args:
            loss_dict: scalar losses of this process.
            data_time: seconds this process waited for its batch; the slowest process counts.
            cur_iter: the iteration they belong to.
            prefix: put before ``total_loss``.

        Raises:
            FloatingPointError: the sum is infinite or not a number (on the main process).
        """
        values = torch.stack([loss.detach().reshape(()).float() for loss in loss_dict.values()]).tolist()
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        gathered = comm.gather((dict(zip(loss_dict, values)), data_time))
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", max(seconds for _, seconds in gathered), cur_iter=cur_iter)
        mean = {name: float(np.mean([losses[name] for losses, _ in gathered])) for name in loss_dict}
        total = sum(mean.values())
        if not np.isfinite(total):
            raise FloatingPointError(f"The loss is infinite or NaN at iteration {cur_iter}: {mean}")
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(mean) > 1:
            for name, value in mean.items():
                storage.put_scalar(name, value, cur_iter=cur_iter)

    def after_train(self) -> None:
        super().after_train()
        if self._writer_thread is not None:
            self._writer_thread.shutdown(wait=True)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])


class AMPTrainer(SimpleTrainer):
    """A SimpleTrainer whose forward pass runs in mixed precision, with scaled gradients.

    Args:
        model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward, async_write_metrics: as in
            SimpleTrainer.
        grad_scaler: a torch GradScaler; by default a new one.
        precision: the reduced precision.
        log_grad_scaler: whether the scale is stored as ``[metric]grad_scaler``.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: Any = None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        replicas = getattr(model, "device_ids", None) if isinstance(model, DistributedDataParallel) else None
        if isinstance(model, DataParallel) or (replicas and len(replicas) > 1):
            raise ValueError("Mixed precision needs one process for each GPU.")
        super().__init__(
            model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward, async_write_metrics
        )
        self.grad_scaler = torch.amp.GradScaler("cuda") if grad_scaler is None else grad_scaler
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def run_step(self) -> None:
        if not torch.cuda.is_available():
            raise RuntimeError("Mixed precision training needs CUDA; set SOLVER.AMP.ENABLED False.")
        super().run_step()

    def _forward(self, batch: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        with torch.autocast("cuda", dtype=self.precision):
            return super()._forward(batch)

    def _backward(self, total: torch.Tensor) -> None:
        self.grad_scaler.scale(total).backward()
        if self.log_grad_scaler:
            get_event_storage().put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())

    def _update(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
