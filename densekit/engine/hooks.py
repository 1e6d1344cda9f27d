"""Training hooks beside those of the host."""

import logging
from collections.abc import Mapping
from typing import Any

from densekit.checkpoint import Checkpointer
from densekit.checkpoint.folder import CheckpointFolder
from densekit.d2.engine import HookBase
from densekit.d2.evaluation.testing import flatten_results_dict
from densekit.d2.utils import comm
from densekit.data.order import TrainingOrder
from densekit.engine.best import Scores
from densekit.engine.ema import WeightAverage, averaged
from densekit.engine.preemption import STOP, AgreedStop, leave
from densekit.engine.randomness import random_state
from densekit.engine.run_folder import RunFolder

logger = logging.getLogger(__name__)


class EarlyStop(BaseException):
    """The training ends before its last iteration, as it was asked to; no error."""


class AverageHook(HookBase):
    """Takes each step into the average of the weights.

    Args:
        average: of the weights.
    """

    def __init__(self, average: WeightAverage) -> None:
        self._average = average

    def after_step(self) -> None:
        self._average.update(self.trainer._trainer.refused)


class ScheduleHook(HookBase):
    """Steps the learning-rate schedules of the phases after the first, which the host's hook steps.

    Args:
        schedules: by the name of the phase.
    """

    def __init__(self, schedules: Mapping[str, Any]) -> None:
        self._schedules = schedules

    def after_step(self) -> None:
        for name, schedule in self._schedules.items():
            rate = max(group["lr"] for group in schedule.optimizer.param_groups)
            self.trainer.storage.put_scalar(f"lr/{name}", rate, smoothing_hint=False)
            schedule.step()

    def state_dict(self) -> dict[str, Any]:
        return {name: schedule.state_dict() for name, schedule in self._schedules.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, schedule in self._schedules.items():
            schedule.load_state_dict(state[name])


class CheckpointHook(HookBase):
    """Saves everything that a resumed run needs to go on exactly, under the host's file names.

    Runs in every process, because each has random numbers of its own; the main process writes. A run that is asked to
    stop saves and ends here.

    Args:
        checkpointer: of the model and what belongs to its training.
        period: in iterations.
        eval_period: of the evaluations, before each of which a checkpoint is saved as well; 0 for none.
        order: of the training images; None where the data set is a stream.
        keep: how many periodic checkpoints stay on the disk; 0 keeps all.
        folder: of the run, whose id the checkpoints hold.
        average: of the weights, which the last checkpoint holds in the place of the weights.
        scores: of the evaluations, the best of which keep their checkpoints.
        keep_best: how many of them.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        period: int,
        eval_period: int,
        order: TrainingOrder | None,
        keep: int,
        *,
        folder: RunFolder,
        average: WeightAverage | None = None,
        scores: Scores | None = None,
        keep_best: int = 1,
    ) -> None:
        self._checkpointer, self._period, self._eval_period = checkpointer, period, eval_period
        self._order, self._keep, self._keep_best = order, keep, keep_best
        self._folder, self._average, self._scores = folder, average, scores

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        stop = STOP.agreed()
        evaluates = is_due(done, self._eval_period, self.trainer.max_iter)
        if done >= self.trainer.max_iter:
            self.save_final()
        elif stop or evaluates or done % self._period == 0:
            self._save(periodic_name(self.trainer.iter), evaluation_due=evaluates)
        if stop:
            leave(f"{done} of {self.trainer.max_iter} iterations are saved.", stop, AgreedStop)

    def save_final(self) -> None:
        """Saves the last checkpoint, from which a longer training could go on."""
        with averaged(self._average):
            self._save("model_final")

    def save_best(self, **facts: Any) -> None:
        """Writes the weights that were evaluated as ``model_best.pth``; to be called in all processes."""
        with averaged(self._average):
            facts |= {"run_id": self._folder.id, "averaged": self._average is not None}
            self._checkpointer.save_weights("model_best", **facts)

    def _save(self, name: str, **more: Any) -> None:
        states = comm.gather(random_state())
        more |= {"data_seed": None if self._order is None else self._order.seed, "run_id": self._folder.id}
        self._checkpointer.save(name, iteration=self.trainer.iter, random_states=states, **more)
        if self._keep and comm.is_main_process():
            best = self._scores.top(self._keep_best) if self._scores else []
            stay = [f"{periodic_name(iteration)}.pth" for iteration in best]
            CheckpointFolder(self._checkpointer.save_dir).prune(self._keep, stay)


def periodic_name(iteration: int) -> str:
    """The file of the checkpoint after an iteration, without its suffix."""
    return f"model_{iteration:07d}"


def is_due(done: int, period: int, last: int) -> bool:
    """Tells whether an evaluation follows the iteration; that after the last one is no matter of the period."""
    return period > 0 and done % period == 0 and done < last


class EvaluationHook(HookBase):
    """Evaluates every ``period`` iterations and after the last, and first of all where a stopped run had not.

    Args:
        period: 0 evaluates at the end only.
        folder: of the run, which notes the scores.
        scores: of the metric that decides which weights are the best; None keeps no best.
        patience: the training ends after so many evaluations without a new best; 0: it does not.

    Attributes:
        is_overdue: whether the evaluation of the checkpoint that is resumed was interrupted, or may have been.
        checkpoints: writes the best weights.
    """

    checkpoints: CheckpointHook

    def __init__(self, period: int, folder: RunFolder, scores: Scores | None = None, patience: int = 0) -> None:
        self._period, self._folder, self._scores, self._patience = period, folder, scores, patience
        self.is_overdue = False

    def before_train(self) -> None:
        if self.is_overdue:
            self._evaluate(self.trainer.iter - 1)
        if self.trainer.iter < self.trainer.max_iter:
            self._end_if_hopeless(self.trainer.iter - 1)

    def after_step(self) -> None:
        if is_due(self.trainer.iter + 1, self._period, self.trainer.max_iter):
            self._evaluate(self.trainer.iter)
            self._end_if_hopeless(self.trainer.iter)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # otherwise an error or a request ended the training
            self._evaluate(self.trainer.max_iter, is_last=True)

    def _evaluate(self, iteration: int, *, is_last: bool = False) -> None:
        numbers = _numbers(self.trainer.evaluate()) | (_numbers(self.trainer.evaluate_augmented()) if is_last else {})
        numbers |= self.trainer.validation_losses()
        self._store(iteration, numbers)
        if self._scores is not None:
            # The iteration of the checkpoint with these weights, which is one less than that of the line at the end.
            self._judge(self._scores, min(iteration, self.trainer.max_iter - 1), numbers)
        comm.synchronize()  # the others wait here while the main process evaluates

    def _store(self, iteration: int, numbers: Mapping[str, float]) -> None:
        self.trainer.storage.iter = iteration
        if numbers:
            self.trainer.storage.put_scalars(**numbers, smoothing_hint=False)
            self.trainer.write_metrics()

    def _judge(self, scores: Scores, iteration: int, numbers: Mapping[str, float]) -> None:
        is_best = comm.is_main_process() and scores.add(iteration, numbers)
        if comm.all_gather(is_best)[0]:
            value = scores.values.get(iteration)
            self.checkpoints.save_best(iteration=iteration, metric=scores.metric, value=value)
        if not comm.is_main_process():
            return
        if is_best:
            logger.info(f"{scores.metric} {value:.5g} is the best so far; its weights are model_best.pth.")
        elif scores.best:
            logger.info(f"{scores.metric}: the best is still {scores.best[1]:.5g}, of iteration {scores.best[0]}.")
        self._folder.note(scores=scores.state_dict())

    def _end_if_hopeless(self, iteration: int) -> None:
        """Ends the training where the best evaluation lies too far back; the main process decides for all."""
        if self._scores is None or not self._patience:
            return
        if not comm.all_gather(self._scores.since_best >= self._patience)[0]:
            return
        if comm.is_main_process():
            logger.info(_why(self._scores, iteration + 1, self.trainer.max_iter, self._patience))
        self.trainer.iter = iteration  # one more in before_train
        self.checkpoints.save_final()
        self._store(iteration, _numbers(self.trainer.evaluate_augmented()))
        raise EarlyStop

    def state_dict(self) -> dict[str, Any]:
        return self._scores.state_dict() if self._scores is not None else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._scores is not None:
            self._scores.load_state_dict(state)


def _numbers(results: Mapping[str, Any] | None) -> dict[str, float]:
    return {name: float(value) for name, value in flatten_results_dict(results).items()} if results else {}


def _why(scores: Scores, done: int, last: int, patience: int) -> str:
    best = scores.best
    record = f"the best was {best[1]:.5g} after iteration {best[0]}" if best else "it was never a number"
    return (
        f"The training ends early, after {done} of {last} iterations: {scores.since_best} evaluations have not "
        f"improved {scores.metric} ({record}). It is saved as model_final.pth; to train on, raise TEST.EARLY_STOPPING "
        f"{patience} and resume."
    )
