"""The losses of the training on data that is not trained on."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from densekit.d2.config import CfgNode
from densekit.d2.data import DatasetFromList
from densekit.d2.utils import comm
from densekit.d2.utils.events import EventStorage
from densekit.data.loader import SeededSamples, prepare_worker
from densekit.data.order import Draw
from densekit.data.proposals import load_test_records
from densekit.engine.batches import RememberedBatches
from densekit.engine.errors import DataError
from densekit.engine.phases import losses_of
from densekit.engine.preemption import STOP
from densekit.engine.randomness import undisturbed

__all__ = ["config_for_validation", "untouched", "validation_losses"]

Mapper = Callable[[dict[str, Any]], Any]

_TARGETS = ("instances", "sem_seg", "proposals", "hole")


def config_for_validation(cfg: CfgNode) -> CfgNode:
    """A config with which a training mapper prepares images as an evaluation sees them, with their annotations."""
    plain = cfg.clone()
    plain.defrost()
    keys = plain.INPUT
    keys.MIN_SIZE_TRAIN, keys.MAX_SIZE_TRAIN = (keys.MIN_SIZE_TEST,), keys.MAX_SIZE_TEST
    keys.MIN_SIZE_TRAIN_SAMPLING = "choice"
    keys.RANDOM_FLIP, keys.CROP.ENABLED, keys.COLOR_AUG_SSD = "none", False, False
    return plain


def validation_losses(cfg: CfgNode, model: nn.Module, mapper: Mapper, iteration: int = 0) -> dict[str, float]:
    """The mean of each training loss over the images of each data set of ``DATASETS.TEST``.

    Every image is a batch of its own, with its own random numbers for what a loss samples, so that the losses of two
    evaluations differ by the weights alone. The model is in training mode (BatchNorm takes the statistics of the image)
    and is left as it was, buffers included. To be called in all processes, which share the images; all take the same
    number of steps, because a loss may wait for the others.

    Args:
        cfg: the config.
        model: not wrapped.
        mapper: a training mapper without augmentation.
        iteration: for losses that change during the training.

    Returns:
        ``validation_loss``, their sum, and ``validation/<loss>`` for each; with several data sets
        ``<data set>/validation_loss`` and so on. The same in all processes.

    Raises:
        DataError: a data set has no annotations or an image of it cannot be read.
    """
    numbers: dict[str, float] = {}
    several = len(cfg.DATASETS.TEST) > 1
    for name in cfg.DATASETS.TEST:
        prefix = f"{name}/" if several else ""
        means = _mean_losses(cfg, model, mapper, name, iteration)
        numbers[f"{prefix}validation_loss"] = sum(means.values())
        numbers |= {f"{prefix}validation/{loss}": value for loss, value in means.items()}
    if numbers:
        logging.getLogger(__name__).info("  ".join(f"{name}: {value:.4g}" for name, value in numbers.items()))
    return numbers


def _mean_losses(cfg: CfgNode, model: nn.Module, mapper: Mapper, dataset: str, iteration: int) -> dict[str, float]:
    records = load_test_records(cfg, dataset)
    loader, counted = _share(records, mapper, cfg.DATALOADER.NUM_WORKERS)
    sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
    with undisturbed(), untouched(model), torch.no_grad(), EventStorage(iteration):
        model.train()
        for step, batch in enumerate(RememberedBatches(loader, before_each=STOP.leave_if_received)):
            if not any(key in batch[0] for key in _TARGETS):
                raise DataError(
                    f"TEST.VALIDATION_LOSS: image {batch[0].get('file_name')} of {dataset} has no annotations. Set it "
                    "False, or evaluate on data that has some."
                )
            torch.manual_seed(step * comm.get_world_size() + comm.get_rank())
            losses = losses_of(model, batch)
            if step < counted:
                for name, loss in losses.items():
                    sums[name] = sums[name] + loss.detach().double()
    gathered = comm.all_gather({name: float(value) for name, value in sums.items()})
    names = dict.fromkeys(chain.from_iterable(gathered))
    return {name: sum(part.get(name, 0.0) for part in gathered) / len(records) for name in names}


def _share(records: list[dict[str, Any]], mapper: Mapper, workers: int) -> tuple[DataLoader[Any], int]:
    """This process's images, and how many of them count; the last one may fill up what others have more."""
    rank, world = comm.get_rank(), comm.get_world_size()
    steps = -(-len(records) // world)
    indices = [min(step * world + rank, len(records) - 1) for step in range(steps)]
    draws: list[list[Draw]] = [[(index, index, 0)] for index in indices]
    loader: DataLoader[Any] = DataLoader(
        SeededSamples(DatasetFromList(records, copy=False), mapper),
        batch_sampler=draws,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=prepare_worker,
        generator=torch.Generator(),
    )
    return loader, len(range(rank, len(records), world))


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Puts back, after the block, the mode, the buffers and all other attributes of a model's modules.

    Some losses keep running averages, in buffers or in plain numbers.
    """
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    tables = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    contents = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, before in attributes:
            vars(module).clear()
            vars(module).update(before)
        for table, entries in tables:
            table.clear()
            table.update(entries)
        with torch.no_grad():
            for buffer, content in contents:
                buffer.copy_(content)
