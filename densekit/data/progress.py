"""The place of a training step in its run, which models and mappers may ask for."""

from dataclasses import dataclass, replace

__all__ = ["Progress"]


@dataclass(frozen=True)
class Progress:
    """An iteration of a run whose length is known.

    It is computed from the iteration alone, so that it is the same in a worker process and after a resume.

    Attributes:
        iteration: its number, from 0.
        max_iter: iterations in the run, ``SOLVER.MAX_ITER``.
        epoch_length: iterations in an epoch, seldom a whole number; None where the data set is a stream.
    """

    iteration: int
    max_iter: int
    epoch_length: float | None = None

    def at(self, iteration: int) -> "Progress":
        """Returns another iteration of the same run."""
        return replace(self, iteration=iteration)

    @property
    def epoch(self) -> float:
        """Epochs that are done before the iteration."""
        return self.iteration / self._epoch_length()

    def is_in_last(self, epochs: float) -> bool:
        """Tells whether the iteration belongs to the last so many epochs of the run."""
        return self.iteration >= self.max_iter - round(epochs * self._epoch_length())

    def _epoch_length(self) -> float:
        if self.epoch_length is None:
            raise ValueError("A stream of images has no epochs; count in iterations instead.")
        return self.epoch_length
