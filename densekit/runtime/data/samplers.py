"""Samplers: endless shuffled streams for training and exact shares for inference, split over processes by rank."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler

from densekit.runtime.utils import comm


class _EndlessSampler(Sampler[int]):
    """Epoch after epoch of indices, of which this process takes every ``world_size``-th.

    All processes draw the same stream from the same seed; nothing is exchanged after the start. Worker processes of a
    loader are not counted here, see :class:`~densekit.runtime.data.common.ToIterableDataset`.
    """

    def __init__(self, shuffle: bool, seed: int | None) -> None:
        self._shuffle = shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        """Returns the (M,) indices of one epoch, before shuffling."""
        raise NotImplementedError

    def _stream(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self._seed)
        while True:
            indices = self._epoch(generator)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._stream(), self._rank, None, self._world_size)


class TrainingSampler(_EndlessSampler):
    """Every index once in each epoch, without end."""

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        """Sets the stream.

        Args:
            size: Number of elements of the data set.
            shuffle: Whether each epoch is shuffled.
            seed: Of the shuffling, the same on all processes; drawn and shared between them if None.

        Raises:
            ValueError: ``size`` is not a positive integer.
        """
        if not isinstance(size, int) or size <= 0:
            raise ValueError(f"TrainingSampler needs the positive number of elements to sample from, not {size!r}.")
        super().__init__(shuffle, seed)
        self._size = size

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return torch.arange(self._size)


class RandomSubsetTrainingSampler(TrainingSampler):
    """Every index of a random subset once in each epoch: for curves of accuracy over the amount of data."""

    def __init__(
        self,
        size: int,
        subset_ratio: float,
        shuffle: bool = True,
        seed_shuffle: int | None = None,
        seed_subset: int | None = None,
    ) -> None:
        """Draws the subset.

        Args:
            size: Number of elements of the data set.
            subset_ratio: Fraction of them to use, in (0, 1].
            shuffle: Whether each epoch is shuffled.
            seed_shuffle: Of the shuffling; drawn and shared between processes if None.
            seed_subset: Of the subset; drawn and shared between processes if None.

        Raises:
            ValueError: The subset would be empty or larger than the data set.
        """
        super().__init__(size=size, shuffle=shuffle, seed=seed_shuffle)
        kept = int(size * subset_ratio)
        if subset_ratio > 1 or kept < 1:
            raise ValueError(f"subset_ratio={subset_ratio} of {size} elements leaves {kept}; it must lie in (0, 1].")
        generator = torch.Generator()
        generator.manual_seed(int(comm.shared_random_seed() if seed_subset is None else seed_subset))
        self._subset = torch.randperm(size, generator=generator)[:kept]

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return self._subset


class RepeatFactorTrainingSampler(_EndlessSampler):
    """Repeats images with rare categories (LVIS, arXiv:1908.03195, appendix B.2)."""

    def __init__(self, repeat_factors: torch.Tensor, *, shuffle: bool = True, seed: int | None = None) -> None:
        """Sets how often each image comes.

        Args:
            repeat_factors: (N,) expected repeats of each image in an epoch; fractions are rounded at random, anew in
                each epoch.
            shuffle: Whether each epoch is shuffled.
            seed: Of rounding and shuffling; drawn and shared between processes if None.
        """
        super().__init__(shuffle, seed)
        self._int_part = torch.trunc(repeat_factors)
        self._frac_part = repeat_factors - self._int_part

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: list[dict[str, Any]], repeat_thresh: float, sqrt: bool = True
    ) -> torch.Tensor:
        """Computes the repeat factor of each image from its rarest category.

        With f(c) the fraction of images that show category c: r(c) = max(1, sqrt(t / f(c))), r(image) = max r(c).

        Args:
            dataset_dicts: Records with annotations.
            repeat_thresh: t, the frequency below which a category is repeated.
            sqrt: False leaves the square root out.

        Returns:
            (N,) float32 factors.
        """
        shown = [{annotation["category_id"] for annotation in record["annotations"]} for record in dataset_dicts]
        images = Counter(category for categories in shown for category in categories)
        ratios = {c: repeat_thresh / (n / len(dataset_dicts)) for c, n in images.items()}
        factors = {c: max(1.0, math.sqrt(ratio) if sqrt else ratio) for c, ratio in ratios.items()}
        rarest = [max((factors[c] for c in categories), default=1.0) for categories in shown]
        return torch.tensor(rarest, dtype=torch.float32)

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        up = torch.rand(len(self._frac_part), generator=generator) < self._frac_part
        return torch.repeat_interleave((self._int_part + up).long())


class InferenceSampler(Sampler[int]):
    """Every index exactly once over all processes, each taking one contiguous share."""

    def __init__(self, size: int) -> None:
        """Takes this process's share.

        Args:
            size: Number of elements of the data set.

        Raises:
            ValueError: ``size`` is not a positive integer.
        """
        if not isinstance(size, int) or size <= 0:
            raise ValueError(f"InferenceSampler needs the positive number of elements to go through, not {size!r}.")
        self._local_indices = self._get_local_indices(size, comm.get_world_size(), comm.get_rank())

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        """Returns the share of a rank: the shares differ by at most one, the first ranks having the longer ones."""
        shortest, longer = divmod(total_size, world_size)
        begin = rank * shortest + min(rank, longer)
        return range(begin, begin + shortest + (rank < longer))

    def __iter__(self) -> Iterator[int]:
        return iter(self._local_indices)

    def __len__(self) -> int:
        return len(self._local_indices)
