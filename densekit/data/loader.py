"""The training loader: images in an order that a resumed run continues, augmented the same whoever loads them."""

import logging
import multiprocessing
import multiprocessing.util
import os
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from densekit.d2.config import CfgNode
from densekit.d2.data import DatasetFromList, build_detection_train_loader
from densekit.d2.utils import comm
from densekit.data.order import Draw, TrainingOrder
from densekit.data.progress import Progress
from densekit.data.proposals import load_records
from densekit.data.samplers import ExtendedRecords, build_sampling

__all__ = ["SampleContext", "SeededSamples", "build_train_loader", "prepare_worker", "start_workers"]

# One that has a method ``map_training(record, context: SampleContext)`` is asked for training samples by it.
Mapper = Callable[[dict[str, Any]], dict[str, Any] | None]

# A mapper that refuses this many images one after another accepts none.
_REFUSALS = 1000

_STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]

# Ends a prepared process with code 0: torch raises an error in the main process for any other.
_END = getattr(signal, "SIGUSR2", signal.SIGTERM)
_ENDING: set[int] = set()  # processes that end their loaders' when they end


@dataclass(frozen=True)
class SampleContext:
    """Context of a sample: the second argument of a mapper's ``map_training(record, context)``.

    Python's, numpy's and torch's random numbers are seeded for the sample: draw further records with them.

    Attributes:
        records: of the whole data set; each look-up returns a copy.
        progress: of the step that the sample is for.
    """

    records: Sequence[dict[str, Any]]
    progress: Progress


class SeededSamples(Dataset):
    """Elements of a data set, mapped; all that is random in the mapping comes from the draw's own seed.

    An element is therefore the same in a worker process or in this one, and in a run that was interrupted before it.
    A mapper that returns None for an element gets another one, drawn at random.

    Args:
        records: a sequence or a data set with indices.
        mapper: may change the record that it gets, and may return None. Its method ``map_training``, if it has one, is
            called instead where :attr:`plan` is set.

    Attributes:
        plan: the length of the training; None where samples are not for a training.
    """

    def __init__(self, records: Any, mapper: Mapper) -> None:
        self._records, self._mapper = records, mapper
        self.plan: Progress | None = None

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, draw: Draw) -> Any:
        index, seed, step = draw
        with _randomness(seed):
            mapper = self._mapper_at(step)
            for _ in range(_REFUSALS):
                sample = mapper(self._records[index])
                if sample is not None:
                    return sample
                index = random.randrange(len(self._records))
        raise ValueError(f"The mapper returned None for {_REFUSALS} images one after another (INPUT.MAPPER).")

    def _mapper_at(self, step: int) -> Mapper:
        with_context = getattr(self._mapper, "map_training", None)
        if self.plan is None or with_context is None:
            return self._mapper
        return partial(with_context, context=SampleContext(self._records, self.plan.at(step)))


@contextmanager
def _randomness(seed: int) -> Iterator[None]:
    """Seeds Python's, numpy's and torch's generators of the CPU for the block and puts their states back."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.random.default_generator.manual_seed(seed)  # torch.manual_seed would reset the GPUs' as well
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def build_train_loader(cfg: CfgNode, mapper: Mapper) -> Iterable[Any]:
    """Builds the endless loader of ``DATASETS.TRAIN``.

    Args:
        cfg: The config; ``DATALOADER.SAMPLER_TRAIN`` is an entry of :data:`~densekit.data.samplers.SAMPLERS`, ``SEED``
            below zero means an order of its own for each run.
        mapper: Makes a model's input of a record.

    Returns:
        An iterable of lists of mapped records. Its ``batch_sampler`` is a :class:`TrainingOrder`, unless the data set
        is a stream, which has its own order and cannot be entered in the middle.
    """
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    files = cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None
    filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    records = load_records(cfg.DATASETS.TRAIN, files, filter_empty=filter_empty, min_keypoints=keypoints)
    if isinstance(records, IterableDataset):
        if hasattr(mapper, "map_training"):
            raise ValueError(
                f"INPUT.MAPPER {type(mapper).__name__} makes a sample of several records, and DATASETS.TRAIN is a "
                "stream, which has no other records to look up. Choose another mapper, or a data set with indices."
            )
        return build_detection_train_loader(cfg, mapper=mapper, dataset=records)
    listed = isinstance(records, list)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    sampling = build_sampling(cfg, records)
    wide = _wide(records) if listed and cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
    order = TrainingOrder(
        sampling.epoch,
        cfg.SOLVER.IMS_PER_BATCH,
        seed,
        wide=None if wide is None else wide * len(sampling.additions),
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )
    logging.getLogger(__name__).info(f"{len(records)} training images, {cfg.SOLVER.IMS_PER_BATCH} in a step")
    stored = DatasetFromList(records, copy=False) if listed else records
    if len(sampling.additions) > 1:
        stored = ExtendedRecords(stored, sampling.additions)
    samples = SeededSamples(stored, mapper)
    return DataLoader(
        samples,
        batch_sampler=order,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=_as_it_is,
        worker_init_fn=prepare_worker,
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda"),
        generator=torch.Generator(),  # else starting an iteration would draw from the model's random numbers
    )


def _wide(records: list[dict[str, Any]]) -> list[bool] | None:
    """Tells for each image whether it is wider than high; None if a record has no size, as in panoptic data sets."""
    if not all("width" in record and "height" in record for record in records):
        return None
    return [record["width"] > record["height"] for record in records]


def _as_it_is(samples: list[Any]) -> list[Any]:
    """Images of different sizes do not stack, so a batch is a list."""
    return samples


def start_workers(loader: Iterable[Any]) -> Iterator[Any]:
    """Begins to iterate over a loader; signals to stop wait until its processes are prepared for them.

    Its processes end with this one, also where an error keeps the iterator alive.
    """
    if os.getpid() not in _ENDING:
        # Before multiprocessing waits for them, in a process of its own as well.
        multiprocessing.util.Finalize(None, _end_workers, exitpriority=100)
        _ENDING.add(os.getpid())
    if getattr(loader, "worker_init_fn", None) is not prepare_worker or not hasattr(signal, "pthread_sigmask"):
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_workers() -> None:
    """Ends the processes that are left, which outlive the one SIGTERM that multiprocessing would send them."""
    for process in multiprocessing.active_children():
        if process.pid is not None:
            os.kill(process.pid, _END)


def prepare_worker(worker: int) -> None:
    """Makes a loader's process frugal and lets it outlive the signals that ask a run to stop.

    Schedulers send them to all processes of a job, and a run dies of a loader that dies. The second SIGTERM ends the
    process, for a run that ends sends one or two to those that are left.
    """
    cv2.setNumThreads(0)  # OpenCV would start as many threads in every worker as there are cores

    def survive_once(number: int, frame: FrameType | None) -> None:
        signal.signal(number, lambda *_: os._exit(0))

    signal.signal(_END, lambda *_: os._exit(0))
    signal.signal(signal.SIGTERM, survive_once)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a terminal sends to all processes of the job
    if hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
