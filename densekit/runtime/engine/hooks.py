"""The usual hooks: time, learning rate, checkpoints, evaluation, exact batch statistics, writers."""

import datetime
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn

from densekit.runtime.engine.train_loop import HookBase
from densekit.runtime.evaluation.testing import flatten_results_dict
from densekit.runtime.solver import LRMultiplier
from densekit.runtime.utils import comm
from densekit.runtime.utils.events import EventStorage, EventWriter

Callback = Callable[[Any], None]


class CallbackHook(HookBase):
    """A hook made of functions that take the trainer."""

    def __init__(
        self,
        *,
        before_train: Callback | None = None,
        after_train: Callback | None = None,
        before_step: Callback | None = None,
        after_step: Callback | None = None,
    ) -> None:
        self._callbacks = {
            "before_train": before_train,
            "after_train": after_train,
            "before_step": before_step,
            "after_step": after_step,
        }

    def _call(self, moment: str) -> None:
        if callback := self._callbacks.get(moment):
            callback(self.trainer)

    def before_train(self) -> None:
        self._call("before_train")

    def after_train(self) -> None:
        self._call("after_train")
        self._callbacks.clear()  # closures tend to hold the trainer

    def before_step(self) -> None:
        self._call("before_step")

    def after_step(self) -> None:
        self._call("after_step")


class IterationTimer(HookBase):
    """Stores the seconds of each iteration as ``time`` and sums them up at the end; register it first.

    Args:
        warmup_iter: how many iterations at the start are too slow to count.
    """

    def __init__(self, warmup_iter: int = 3) -> None:
        self._warmup_iter = warmup_iter
        self._step = Timer()
        self._steps = Timer()
        self._start = time.perf_counter()

    def before_train(self) -> None:
        self._start = time.perf_counter()
        self._steps.reset()
        self._steps.pause()

    def after_train(self) -> None:
        logger = logging.getLogger(__name__)
        whole, in_steps = time.perf_counter() - self._start, self._steps.seconds()
        counted = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if counted > 0 and in_steps > 0:
            logger.info(f"{counted} iterations in {_clock(in_steps)} ({in_steps / counted:.4f} s / it)")
        logger.info(f"Total training time: {_clock(whole)} ({_clock(whole - in_steps)} on hooks)")

    def before_step(self) -> None:
        self._step.reset()
        self._steps.resume()

    def after_step(self) -> None:
        done = self.trainer.storage.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step.seconds())
        else:
            self._start = time.perf_counter()
            self._steps.reset()
        self._steps.pause()


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class PeriodicWriter(HookBase):
    """Lets the writers write every ``period`` iterations and at the end; register it last."""

    def __init__(self, writers: Sequence[EventWriter], period: int = 20) -> None:
        if wrong := [writer for writer in writers if not isinstance(writer, EventWriter)]:
            raise TypeError(f"{wrong} are not EventWriters.")
        self._writers = writers
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        # An evaluation after the last step has stored results since the last write.
        for writer in self._writers:
            writer.write()
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's PeriodicCheckpointer as a hook: every ``period`` iterations, and ``model_final`` after the last."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class BestCheckpointer(HookBase):
    """Saves the weights whenever an evaluation result beats the best one; register it after the EvalHook.

    Args:
        eval_period: the period of the EvalHook.
        checkpointer: what saves.
        val_metric: the result to follow, as it is stored: ``"bbox/AP50"``.
        mode: whether the ``"max"`` or the ``"min"`` is best.
        file_prefix: the name of the file, without ``.pth``.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"mode={mode!r} is neither 'max' nor 'min'.")
        self._period = eval_period
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._sign = 1 if mode == "max" else -1
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def _compare_and_save(self) -> None:
        logger = logging.getLogger(__name__)
        latest = self.trainer.storage.latest().get(self._val_metric)
        if latest is None:
            logger.warning(f"No best checkpoint: the evaluation gave no {self._val_metric!r}.")
            return
        value, iteration = float(latest[0]), int(latest[1])
        if not math.isfinite(value):
            return
        if self.best_metric is not None and self._sign * value <= self._sign * self.best_metric:
            logger.info(
                f"{self._val_metric} {value:.5f} does not beat {self.best_metric:.5f} of iteration {self.best_iter}."
            )
            return
        self.best_metric, self.best_iter = value, iteration
        self._checkpointer.save(self._file_prefix, iteration=iteration)
        logger.info(f"{self._val_metric} {value:.5f} at iteration {iteration} is the best so far; weights saved.")

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._compare_and_save()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._compare_and_save()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.best_metric is None else {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.best_metric, self.best_iter = state_dict["best_metric"], state_dict["best_iter"]


class LRScheduler(HookBase):
    """Steps the learning rate schedule after each iteration and stores ``lr``.

    Args:
        optimizer: by default the trainer's.
        scheduler: a torch scheduler, or a fvcore ParamScheduler of multipliers; by default the trainer's.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer | None = None, scheduler: ParamScheduler | Any | None = None
    ) -> None:
        self._optimizer = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self) -> Any:
        return self._scheduler or self.trainer.scheduler

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(
                self._optimizer, self.scheduler, self.trainer.max_iter, last_iter=self.trainer.iter - 1
            )
        self._shown_group = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: torch.optim.Optimizer) -> int:
        """The group whose rate stands for all: the largest, or the first with the commonest rate if all hold one."""
        groups = optimizer.param_groups
        largest = max(len(group["params"]) for group in groups)
        if largest > 1:
            return next(i for i, group in enumerate(groups) if len(group["params"]) == largest)
        commonest = Counter(group["lr"] for group in groups).most_common(1)[0][0]
        return next(i for i, group in enumerate(groups) if group["lr"] == commonest)

    def after_step(self) -> None:
        lr = self._optimizer.param_groups[self._shown_group]["lr"]  # type: ignore[union-attr]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict() if isinstance(self.scheduler, torch.optim.lr_scheduler.LRScheduler) else {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        if isinstance(self.scheduler, torch.optim.lr_scheduler.LRScheduler):
            self.scheduler.load_state_dict(dict(state_dict))


class EvalHook(HookBase):
    """Evaluates every ``eval_period`` iterations and after the last; every process must have it.

    Args:
        eval_period: 0 evaluates at the end only.
        eval_function: takes nothing, returns a nested dict of numbers, or nothing.
        eval_after_train: whether to evaluate after the last iteration.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], Any], eval_after_train: bool = True) -> None:
        self._period = eval_period
        self._func: Callable[[], Any] | None = eval_function
        self._eval_after_train = eval_after_train

    def _evaluate(self) -> None:
        results = self._func() if self._func else None
        if results:
            self.trainer.storage.put_scalars(**_numbers(results), smoothing_hint=False)
        comm.synchronize()  # the others wait here while the main process evaluates

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        # An error, also one in the last iteration, leaves iter behind.
        if self._eval_after_train and self.trainer.iter >= self.trainer.max_iter:
            self._evaluate()
        self._func = None  # it holds the trainer


def _numbers(results: Any) -> dict[str, float]:
    """The nested results with names joined by ``/``."""
    if not isinstance(results, dict):
        raise TypeError(f"An evaluation returns a dict of results, not {results!r}.")
    flat = flatten_results_dict(results)
    try:
        return {name: float(value) for name, value in flat.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"Evaluation results must be numbers: {flat}") from error


class PreciseBN(HookBase):
    """Replaces the running averages of BatchNorm by averages over fresh batches, before evaluations and at the end.

    Args:
        period: how often; 0 only after the last iteration.
        model: its BatchNorm layers in training mode are updated; without any the hook does nothing.
        data_loader: its own loader of training batches.
        num_iter: batches to average over.
    """

    def __init__(self, period: int, model: nn.Module, data_loader: Iterable[Any], num_iter: int) -> None:
        self._model = model
        self._disabled = not get_bn_modules(model)
        self._data_loader = data_loader
        self._batches: Iterator[Any] | None = None
        self._num_iter = num_iter
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self._period > 0 and done % self._period == 0):
            self.update_stats()

    def update_stats(self) -> None:
        """Runs the batches through the model; what the model stores on the way is dropped."""
        if self._disabled:
            return
        self._batches = self._batches or iter(self._data_loader)
        logging.getLogger(__name__).info(f"Averaging batch statistics over {self._num_iter} batches")
        with EventStorage():
            update_bn_stats(self._model, self._batches, self._num_iter)
