"""The order of training images: one endless stream for the whole job, which can be entered at any step.

The stream is drawn from a seed alone and cut into the batches of all processes together; each process takes its share
of every batch. So a run that was interrupted goes on with the very next batch, the images of a step do not depend on
how many processes share it, and no process keeps a state.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import Sampler

__all__ = ["Draw", "TrainingOrder"]

# (index of the image, seed of everything random about its augmentation, step that it is drawn for)
Draw = tuple[int, int, int]


class TrainingOrder(Sampler[list[Draw]]):
    """Batches of draws for one process, from step ``start`` on.

    Args:
        epoch: returns the (M,) indices of one epoch, before shuffling; called with the generator of the stream.
        batch_size: images in a step over all processes, a multiple of ``world_size``.
        seed: of the stream, the same in all processes.
        wide: for each image whether it is wider than high; the images of a step are then all alike in this, so that
            less is padded. None mixes them.
        rank, world_size: this process among all.

    Attributes:
        seed: as above.
        start: the step with which the next iteration begins.

    Raises:
        ValueError: The batch does not divide among the processes.
    """

    def __init__(
        self,
        epoch: Callable[[torch.Generator], Tensor],
        batch_size: int,
        seed: int,
        *,
        wide: Sequence[bool] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size <= 0 or batch_size % world_size:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH is {batch_size}: it must be a positive multiple of the number of processes, "
                f"{world_size}."
            )
        self._epoch, self._batch_size, self._wide = epoch, batch_size, wide
        self._share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self.seed = seed
        self.start = 0

    def __iter__(self) -> Iterator[list[Draw]]:
        return (batch[self._share] for batch in islice(self._batches(), self.start, None))

    @property
    def epoch_size(self) -> int:
        """Number of images in an epoch; for samplers that draw its length, one such length whatever the seed."""
        return len(self._epoch(torch.Generator().manual_seed(0)))

    def draws(self, step: int) -> list[Draw]:
        """This process's share of one step, drawn anew from the first step on."""
        return next(islice(self._batches(), step, None))[self._share]

    def _batches(self) -> Iterator[list[Draw]]:
        return ([(index, seed, step) for index, seed in batch] for step, batch in enumerate(self._groups()))

    def _groups(self) -> Iterator[list[tuple[int, int]]]:
        groups: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        for index, seed in self._stream():
            wide = self._wide is not None and self._wide[index]
            groups[wide].append((index, seed))
            if len(groups[wide]) == self._batch_size:
                yield groups[wide]
                groups[wide] = []

    def _stream(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            indices = self._epoch(generator)
            indices = indices[torch.randperm(len(indices), generator=generator)]
            seeds = torch.randint(2**31, (len(indices),), generator=generator)
            yield from zip(indices.tolist(), seeds.tolist())
