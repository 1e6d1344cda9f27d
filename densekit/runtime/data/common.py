"""Wrappers of data sets: from a list, mapped, as a stream, and grouped by aspect ratio."""

import copy as copy_module
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

logger = logging.getLogger(__name__)


class MapDataset(Dataset):
    """Applies a function to each element of a data set.

    The function may return None for an element it cannot use: a stream goes on to the next one, a data set with indices
    gives another element, drawn at random. Mapping a stream makes a stream.
    """

    def __new__(cls, dataset: Any = None, map_func: Any = None) -> "MapDataset":
        kind = _MapStream if isinstance(dataset, IterableDataset) else cls
        return super().__new__(kind)

    def __init__(self, dataset: Dataset, map_func: Callable[[Any], Any]) -> None:
        self._dataset: Any = dataset
        self._map_func = map_func
        self._rng = random.Random(42)
        self._refused: set[int] = set()

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        current, refused = int(idx), 0
        while True:
            mapped = self._map_func(self._dataset[current])
            if mapped is not None:
                self._refused.discard(current)
                return mapped
            self._refused.add(current)
            refused += 1
            if refused == 3:
                logger.warning("Three elements in a row, from index %d on, were refused by the mapper.", idx)
            left = [i for i in range(len(self)) if i not in self._refused]
            if not left:
                raise RuntimeError(f"The mapper returned None for all {len(self)} elements of the data set.")
            current = self._rng.choice(left)


class _MapStream(MapDataset, IterableDataset):
    """The same over a stream."""

    def __iter__(self) -> Iterator[Any]:
        return (mapped for mapped in map(self._map_func, self._dataset) if mapped is not None)


class _PackedList:
    """A list whose items lie pickled in one tensor.

    Worker processes then share one copy: reading a plain Python list changes its reference counts, which copies every
    page of it into each worker. Spawned workers get the tensor through shared memory.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        buffer, ends = bytearray(), [0]
        for item in items:
            buffer += pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL)
            ends.append(len(buffer))
        self._bytes = torch.frombuffer(buffer, dtype=torch.uint8) if buffer else torch.empty(0, dtype=torch.uint8)
        self._ends = torch.tensor(ends)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, idx: int) -> Any:
        if not -len(self) <= idx < len(self):
            raise IndexError(f"Index {idx} is outside a list of {len(self)}.")
        begin, end = self._ends[idx % len(self) :][:2].tolist()
        return pickle.loads(self._bytes[begin:end].numpy())  # type: ignore[arg-type] # an array is a buffer


class DatasetFromList(Dataset):
    """A list as a data set."""

    def __init__(self, lst: list, copy: bool = True, serialize: bool | Callable[[list], Any] = True) -> None:
        """Takes the items.

        Args:
            lst: The items.
            copy: Whether an element may be changed without changing the list; serialised ones may in any case.
            serialize: Whether to keep the items pickled in one buffer that worker processes share, or a function that
                turns the list into another sequence.
        """
        self._copy = copy and not serialize
        self._items = lst if not serialize else serialize(lst) if callable(serialize) else _PackedList(lst)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, idx: int) -> Any:
        item = self._items[idx]
        return copy_module.deepcopy(item) if self._copy else item


class ToIterableDataset(IterableDataset):
    """A stream of a data set's elements in the order of a sampler.

    Each worker process of a loader runs the whole sampler, which is cheap, and keeps its own share of the indices.
    """

    def __init__(
        self, dataset: Dataset, sampler: Sampler, shard_sampler: bool = True, shard_chunk_size: int = 1
    ) -> None:
        """Sets source and order.

        Args:
            dataset: A data set with indices.
            sampler: Gives the indices.
            shard_sampler: Whether workers share the indices out; False if the sampler does so itself.
            shard_chunk_size: How many consecutive indices go to one worker.
        """
        if isinstance(dataset, IterableDataset):
            raise ValueError(f"{type(dataset).__name__} is a stream already.")
        if not isinstance(sampler, Sampler):
            raise ValueError(f"sampler must be a torch Sampler, not {type(sampler).__name__}.")
        self.dataset, self.sampler = dataset, sampler
        self.shard_sampler, self.shard_chunk_size = shard_sampler, shard_chunk_size

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        workers, mine = (worker.num_workers, worker.id) if worker and self.shard_sampler else (1, 0)
        for position, index in enumerate(self.sampler):
            if position // self.shard_chunk_size % workers == mine:
                yield self.dataset[index]

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type] # only for samplers that have a length


class AspectRatioGroupedDataset(IterableDataset):
    """Batches of images that are all wider than high or all not, so that less padding is needed."""

    def __init__(self, dataset: Iterable[dict[str, Any]], batch_size: int) -> None:
        """Sets the source.

        Args:
            dataset: A stream of dicts with "width" and "height".
            batch_size: Images in a batch; what does not fill one at the end of the stream is dropped.
        """
        self.dataset, self.batch_size = dataset, batch_size
        # Kept between iterations, so that no image is lost where an endless stream is taken up again.
        self._buckets: dict[bool, list] = {True: [], False: []}

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for element in self.dataset:
            wide = element["width"] > element["height"]
            self._buckets[wide].append(element)
            if len(self._buckets[wide]) == self.batch_size:
                batch, self._buckets[wide] = self._buckets[wide], []
                yield batch
