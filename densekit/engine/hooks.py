"""What happens around the iterations beside what the host's hooks do."""

from typing import Any

from densekit.checkpoint import Checkpointer
from densekit.checkpoint.folder import CheckpointFolder
from densekit.d2.engine import HookBase
from densekit.d2.evaluation.testing import flatten_results_dict
from densekit.d2.utils import comm
from densekit.data.order import TrainingOrder
from densekit.engine.preemption import STOP, AgreedStop, leave
from densekit.engine.randomness import random_state


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
    """

    def __init__(
        self, checkpointer: Checkpointer, period: int, eval_period: int, order: TrainingOrder | None, keep: int
    ) -> None:
        self._checkpointer, self._period, self._eval_period = checkpointer, period, eval_period
        self._order, self._keep = order, keep

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        stop = STOP.agreed()
        evaluates = is_due(done, self._eval_period, self.trainer.max_iter)
        if done >= self.trainer.max_iter:
            self._save("model_final")
        elif stop or evaluates or done % self._period == 0:
            self._save(f"model_{self.trainer.iter:07d}", evaluation_due=evaluates)
        if stop:
            leave(f"{done} of {self.trainer.max_iter} iterations are saved.", AgreedStop)

    def _save(self, name: str, **more: Any) -> None:
        states = comm.gather(random_state())
        if not comm.is_main_process():
            return
        seed = None if self._order is None else self._order.seed
        self._checkpointer.save(name, iteration=self.trainer.iter, data_seed=seed, random_states=states, **more)
        if self._keep:
            CheckpointFolder(self._checkpointer.save_dir).prune(self._keep)


def is_due(done: int, period: int, last: int) -> bool:
    """Whether an evaluation follows the iteration; that after the last one is no matter of the period."""
    return period > 0 and done % period == 0 and done < last


class EvaluationHook(HookBase):
    """Evaluates every ``period`` iterations and after the last, and first of all where a stopped run had not.

    Args:
        period: 0 evaluates at the end only.
    """

    def __init__(self, period: int) -> None:
        self._period = period
        self.is_overdue = False

    def before_train(self) -> None:
        if self.is_overdue:
            self.trainer.storage.iter = self.trainer.iter - 1
            self._evaluate()

    def after_step(self) -> None:
        if is_due(self.trainer.iter + 1, self._period, self.trainer.max_iter):
            self._evaluate()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # otherwise an error or a request ended the training
            self._evaluate()

    def _evaluate(self) -> None:
        if results := self.trainer.evaluate():
            numbers = {name: float(value) for name, value in flatten_results_dict(results).items()}
            self.trainer.storage.put_scalars(**numbers, smoothing_hint=False)
        comm.synchronize()  # the others wait here while the main process evaluates
