"""Loaders for training and for inference, from a config or from their parts."""

import logging
import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from densekit.runtime.config import CfgNode, configurable
from densekit.runtime.data.common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from densekit.runtime.data.dataset_mapper import DatasetMapper
from densekit.runtime.data.records import (
    filter_images_with_few_keypoints as filter_images_with_few_keypoints,
)
from densekit.runtime.data.records import (
    filter_images_with_only_crowd_annotations as filter_images_with_only_crowd_annotations,
)
from densekit.runtime.data.records import (
    get_detection_dataset_dicts,
)
from densekit.runtime.data.records import (
    load_proposals_into_dataset as load_proposals_into_dataset,
)
from densekit.runtime.data.records import (
    print_instances_class_histogram as print_instances_class_histogram,
)
from densekit.runtime.data.samplers import (
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from densekit.runtime.utils.comm import get_world_size
from densekit.runtime.utils.env import seed_all_rng

logger = logging.getLogger(__name__)


def trivial_batch_collator(batch: list[Any]) -> list[Any]:
    """Leaves a batch the list it is: images of different sizes do not stack."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seeds numpy and ``random`` in a worker process too; torch alone would leave all workers with equal draws."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)


def _sized(dataset: list | Dataset, mapper: Callable[[Any], Any] | None, sampler: Sampler | None) -> tuple[Any, bool]:
    """Returns the mapped data set and whether it is a stream."""
    wrapped: Any = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    if mapper is not None:
        wrapped = MapDataset(wrapped, mapper)
    stream = isinstance(wrapped, IterableDataset)
    if stream and sampler is not None:
        raise ValueError("A stream (IterableDataset) has its own order and takes no sampler.")
    return wrapped, stream


def build_batch_data_loader(
    dataset: Dataset,
    sampler: Sampler | None,
    total_batch_size: int | None,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    drop_last: bool = True,
    single_gpu_batch_size: int | None = None,
    prefetch_factor: int = 2,
    persistent_workers: bool = False,
    pin_memory: bool = False,
    seed: int | None = None,
    **kwargs: Any,
) -> Iterable[Any]:
    """Makes a loader of batches that are plain lists.

    Args:
        dataset: Mapped elements, with indices or as a stream.
        sampler: Order of a data set with indices; None for a stream.
        total_batch_size: Images in a step over all processes.
        aspect_ratio_grouping: Whether a batch holds only images wider than high, or none.
        num_workers: Worker processes; 0 loads in this one.
        collate_fn: Turns the list into another batch.
        drop_last: Whether an incomplete last batch is dropped.
        single_gpu_batch_size: Images in a step of this process, in place of ``total_batch_size``.
        prefetch_factor: Batches that each worker prepares ahead.
        persistent_workers: Whether workers outlive an iteration.
        pin_memory: Whether batches lie in pinned memory.
        seed: Of the loader's generator, from which workers are seeded.
        **kwargs: More for :class:`torch.utils.data.DataLoader`.

    Raises:
        ValueError: A batch size that does not divide among the processes, both batch sizes or none, or grouping with
            ``drop_last`` off.
    """
    batch_size = _batch_size(total_batch_size, single_gpu_batch_size)
    logger.info("Batches of %d images in this process.", batch_size)
    if not isinstance(dataset, IterableDataset):
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)  # type: ignore[arg-type] # checked
    elif sampler is not None:
        raise ValueError("A stream (IterableDataset) has its own order and takes no sampler.")
    options = {
        "num_workers": num_workers,
        "worker_init_fn": worker_init_reset_seed,
        "prefetch_factor": prefetch_factor if num_workers > 0 else None,
        "persistent_workers": persistent_workers,
        "pin_memory": pin_memory,
        "generator": None if seed is None else torch.Generator().manual_seed(seed),
        **kwargs,
    }
    if aspect_ratio_grouping:
        if not drop_last:
            raise ValueError("Grouping by aspect ratio drops what does not fill a batch; it needs drop_last.")
        return _grouped_loader(dataset, batch_size, collate_fn, options)
    collate = trivial_batch_collator if collate_fn is None else collate_fn
    return DataLoader(dataset, batch_size=batch_size, drop_last=drop_last, collate_fn=collate, **options)


def _grouped_loader(
    dataset: Dataset, batch_size: int, collate_fn: Callable[[list[Any]], Any] | None, options: dict[str, Any]
) -> Iterable[Any]:
    """Takes elements one by one and groups them in this process, so that a group fills from all workers."""
    single = DataLoader(dataset, collate_fn=operator.itemgetter(0), **options)
    loader: Any = AspectRatioGroupedDataset(single, batch_size)
    if collate_fn is not None:
        loader = MapDataset(loader, collate_fn)
    return loader


def _batch_size(total: int | None, single: int | None) -> int:
    """Returns the batch size of this process."""
    if single:
        if total:
            raise ValueError(f"total_batch_size={total} and single_gpu_batch_size={single} exclude each other.")
        return single
    world_size = get_world_size()
    if not total or total < 0 or total % world_size:
        raise ValueError(
            f"The total batch size {total} (SOLVER.IMS_PER_BATCH) must be a positive multiple of the number of "
            f"processes, {world_size}."
        )
    return total // world_size


def _training_sampler(cfg: CfgNode, dataset: Any) -> Sampler:
    seed = cfg.SEED if cfg.SEED >= 0 else None  # a negative seed means a random one, here as elsewhere
    loader = cfg.DATALOADER
    if loader.SAMPLER_TRAIN == "TrainingSampler":
        return TrainingSampler(len(dataset), seed=seed)
    if loader.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset, loader.REPEAT_THRESHOLD, sqrt=loader.REPEAT_SQRT
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    if loader.SAMPLER_TRAIN == "RandomSubsetTrainingSampler":
        return RandomSubsetTrainingSampler(len(dataset), loader.RANDOM_SUBSET_RATIO)
    raise ValueError(
        f"DATALOADER.SAMPLER_TRAIN={loader.SAMPLER_TRAIN!r} is not one of TrainingSampler, "
        "RepeatFactorTrainingSampler, RandomSubsetTrainingSampler."
    )


def _train_loader_from_config(
    cfg: CfgNode,
    mapper: Callable[[Any], Any] | None = None,
    *,
    dataset: list | Dataset | None = None,
    sampler: Sampler | None = None,
) -> dict[str, Any]:
    if dataset is None:
        keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
        dataset = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=keypoints,
            proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
        )
    if sampler is None and not isinstance(dataset, IterableDataset):
        sampler = _training_sampler(cfg, dataset)
    return {
        "dataset": dataset,
        "sampler": sampler,
        "mapper": DatasetMapper(cfg, True) if mapper is None else mapper,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: list | Dataset,
    *,
    mapper: Callable[[Any], Any] | None,
    sampler: Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    **kwargs: Any,
) -> Iterable[Any]:
    """Makes the endless loader of training. Called with a config, ``mapper``, ``dataset`` and ``sampler`` may be given.

    Args:
        dataset: Records, or a torch data set.
        mapper: From a record to what the model takes.
        sampler: Order of the records; a :class:`TrainingSampler` if None. None for a stream.
        total_batch_size: Images in a step over all processes.
        aspect_ratio_grouping: Whether a batch holds only images wider than high, or none; records need ``width`` and
            ``height``.
        num_workers: Worker processes of this process.
        collate_fn: Turns the list of mapped records into another batch.
        **kwargs: More for :func:`build_batch_data_loader`.
    """
    mapped, stream = _sized(dataset, mapper, sampler)
    if sampler is None and not stream:
        sampler = TrainingSampler(len(mapped))
    return build_batch_data_loader(
        mapped,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def _test_loader_from_config(
    cfg: CfgNode, dataset_name: str | list[str], mapper: Callable[[Any], Any] | None = None
) -> dict[str, Any]:
    names = [dataset_name] if isinstance(dataset_name, str) else list(dataset_name)
    files = None
    if cfg.MODEL.LOAD_PROPOSALS:
        files = [cfg.DATASETS.PROPOSAL_FILES_TEST[list(cfg.DATASETS.TEST).index(name)] for name in names]
    return {
        "dataset": get_detection_dataset_dicts(names, filter_empty=False, proposal_files=files),
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: list | Dataset,
    *,
    mapper: Callable[[Any], Any] | None,
    sampler: Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> DataLoader:
    """Makes the loader of inference: every record once over all processes, by default one image at a time.

    Args:
        dataset: Records, or a torch data set. With a config: the name of a registered data set.
        mapper: From a record to what the model takes.
        sampler: Order of the records; an :class:`InferenceSampler` if None. None for a stream.
        batch_size: Images in a batch of this process.
        num_workers: Worker processes of this process.
        collate_fn: Turns the list of mapped records into another batch.
    """
    mapped, stream = _sized(dataset, mapper, sampler)
    if sampler is None and not stream:
        sampler = InferenceSampler(len(mapped))
    return DataLoader(
        mapped,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=False,
        num_workers=num_workers,
        collate_fn=trivial_batch_collator if collate_fn is None else collate_fn,
    )
