"""What happens around the iterations beside what the host's hooks do."""

from densekit.checkpoint import Checkpointer
from densekit.checkpoint.folder import CheckpointFolder
from densekit.d2.engine import HookBase
from densekit.d2.utils import comm
from densekit.data.order import TrainingOrder
from densekit.engine.randomness import random_state


class CheckpointHook(HookBase):
    """Saves everything that a resumed run needs to go on exactly, under the host's file names.

    Runs in every process, because each has random numbers of its own; the main process writes.

    Args:
        checkpointer: of the model and what belongs to its training.
        period: in iterations.
        order: of the training images; None where the data set is a stream.
        keep: how many periodic checkpoints stay on the disk; 0 keeps all.
    """

    def __init__(self, checkpointer: Checkpointer, period: int, order: TrainingOrder | None, keep: int = 0) -> None:
        self._checkpointer, self._period, self._order, self._keep = checkpointer, period, order, keep

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0:
            self._save(f"model_{self.trainer.iter:07d}")
        if done >= self.trainer.max_iter:
            self._save("model_final")

    def _save(self, name: str) -> None:
        states = comm.gather(random_state())
        if comm.is_main_process():
            seed = None if self._order is None else self._order.seed
            self._checkpointer.save(name, iteration=self.trainer.iter, data_seed=seed, random_states=states)
            if self._keep:
                CheckpointFolder(self._checkpointer.save_dir).prune(self._keep)
