"""``--dry-run``: the model, the data and a training step of a configuration, and what a run of it would need.

Nothing is written: no folder is made, no checkpoint, no log file. One process stands for all: it takes its share of the
batch, so that memory and time are those of a process, without the time that gradients need to travel.
"""

import itertools
import logging
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from densekit.checkpoint.sources import is_remote
from densekit.d2.config import CfgNode
from densekit.d2.data import DatasetCatalog
from densekit.d2.data import transforms as T
from densekit.d2.engine import HookBase
from densekit.d2.utils.env import seed_all_rng
from densekit.d2.utils.events import EventStorage
from densekit.d2.utils.logger import setup_logger
from densekit.data.order import TrainingOrder
from densekit.data.registry import load_and_keep
from densekit.engine.disk import (
    checkpoint_size,
    free_space,
    optimizer_size,
    planned_checkpoints,
    readable,
    tensor_bytes,
)
from densekit.engine.launch import place_from_environment
from densekit.engine.loading import load_weights
from densekit.engine.phases import losses_of
from densekit.engine.schedule import in_iterations, priorities
from densekit.engine.setup import check_data, prepare, versions
from densekit.engine.step import cut
from densekit.engine.trainer import Trainer
from densekit.modeling.anchor_coverage import anchors_of, describe, scaled_boxes
from densekit.run_options import RunOptions

_REMEDY = "Lower SOLVER.IMS_PER_BATCH or INPUT.MIN_SIZE_TRAIN, or take more processes (--num-gpus)."


@dataclass
class Needs:
    """Resources that one process of a run needs.

    Attributes:
        parameters: top module -> (all, those that learn).
        weights, gradients, optimizer: bytes.
        peak: bytes at the height of the step; on the CPU by how much the process grew.
        losses: name -> value in the first step.
        images: how many in the batch, and the (height, width) that they are padded to.
        forward_flops: for an image, a multiplication and an addition counting as two.
        step_flops: of the batch, forward and backward.
        data_time, step_time: seconds for the batch; loading in this process.
        checkpoint: bytes of one.
        anchors: a line on the boxes that no anchor covers; "" where there are no anchors or no boxes.
    """

    parameters: dict[str, tuple[int, int]] = field(default_factory=dict)
    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    peak: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    images: tuple[int, tuple[int, int]] = (0, (0, 0))
    forward_flops: int = 0
    step_flops: int = 0
    data_time: float = 0.0
    step_time: float = 0.0
    checkpoint: int = 0
    anchors: str = ""


class _OneBatch:
    """Gives the first batch of a loader again and again.

    Attributes:
        seconds: that loading it took.
        epoch_size: images in an epoch of the loader; None if nobody knows.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        order = getattr(loader, "batch_sampler", None)
        self.epoch_size = order.epoch_size if isinstance(order, TrainingOrder) else None
        start = time.perf_counter()
        self.batch: list[dict[str, Any]] = next(iter(loader))
        self.seconds = time.perf_counter() - start

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        return itertools.repeat(self.batch)


class _Rehearsal(Trainer):
    """A trainer without hooks: it makes steps and writes nothing."""

    loaded: _OneBatch

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> _OneBatch:
        cls.loaded = _OneBatch(super().build_train_loader(cfg))
        return cls.loaded

    def build_hooks(self) -> list[HookBase | None]:
        return []


def rehearse(options: RunOptions) -> str:
    """Rehearses a run in one process and returns the text that ``--dry-run`` prints.

    Raises:
        ValueError, FileNotFoundError, KeyError: as :func:`dry_run`; or the job has started several processes already.
    """
    if place_from_environment(os.environ):
        raise ValueError("--dry-run is for one process: start it with plain python; --num-gpus says what to rehearse.")
    if options.eval_only:
        raise ValueError("--dry-run rehearses the training, and --eval-only leaves it out.")
    processes = options.num_gpus * options.num_machines
    cfg, needs = dry_run(options, processes)
    return report(cfg, needs, options.config_file, processes)


def dry_run(options: RunOptions, processes: int = 1) -> tuple[CfgNode, Needs]:
    """Makes a step and measures it.

    Args:
        options: of the run.
        processes: that the run would have.

    Returns:
        The configuration of the run, and what one of its processes needs.

    Raises:
        ValueError, FileNotFoundError, KeyError: what a run would end with, too; or the step needs more memory than
            there is.
    """
    setup_logger(name="densekit")
    cfg, warnings, notes = prepare(options, writes=False)
    logger = logging.getLogger(__name__)
    for note in (*warnings, *notes):
        logger.info(note)
    cfg = Trainer.auto_scale_workers(cfg, processes)
    cfg.freeze()
    check_data(cfg, options)
    share = _share(cfg, processes)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED)
    try:
        needs = measure(share)
        return in_iterations(cfg, _Rehearsal.loaded.epoch_size, priorities(options.config_file, options.opts)), needs
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"The training step does not fit into the memory of {_device(share)}: {error} {_REMEDY}"
        ) from error


def _share(cfg: CfgNode, processes: int) -> CfgNode:
    """The configuration of one process, which loads its images itself."""
    share = cfg.clone()
    share.defrost()
    if share.SOLVER.IMS_PER_BATCH % processes:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {share.SOLVER.IMS_PER_BATCH} cannot be shared by {processes} processes."
        )
    share.SOLVER.IMS_PER_BATCH //= processes
    share.SOLVER.MAX_EPOCHS, share.SOLVER.REFERENCE_WORLD_SIZE = 0.0, 0  # matters of the whole batch
    share.DATALOADER.NUM_WORKERS = 0
    share.freeze()
    return share


def measure(cfg: CfgNode) -> Needs:
    """Builds the model and makes two steps, the first under a counter, the second with a clock.

    Args:
        cfg: of one process, frozen.
    """
    boxes, sizes = _training_boxes(cfg)
    resident, on_gpu = _resident(), cfg.MODEL.DEVICE.startswith("cuda")
    trainer = _Rehearsal(cfg)
    trainer._trainer.on_bad_step = lambda record, alone: ""  # which would leave a black box
    model, optimizers = trainer.model, trainer.optimizers
    _load_weights(cfg, model)
    needs = Needs(parameters=count_parameters(model))
    anchors = anchors_of(model)
    needs.anchors = describe(boxes, sizes, anchors) if anchors and len(boxes) else ""
    needs.weights = tensor_bytes([*model.parameters(), *model.buffers()])
    batch, needs.data_time = trainer.loaded.batch, trainer.loaded.seconds
    _enlarge(batch, largest_size(cfg), cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
    part = cut(batch, cfg.SOLVER.ACCUMULATE)[0]
    model.train()
    before = {name: value.to("cpu", copy=True) for name, value in model.state_dict().items()}
    with EventStorage(0) as trainer.storage:
        with FlopCounterMode(display=False) as counter:  # which fails on some models without gradients
            needs.losses = {name: float(value.detach()) for name, value in losses_of(model, part).items()}
        needs.forward_flops = counter.get_total_flops() // len(part)
        needs.images = (len(batch), _padded_size(batch))
        with FlopCounterMode(display=False) as counter:
            _step(trainer, 0)
        needs.step_flops = counter.get_total_flops()
        model.load_state_dict(before)  # random weights may be past all numbers after one step
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        _step(trainer, 1)
        needs.step_time = time.perf_counter() - start
    needs.gradients = tensor_bytes(p.grad for p in model.parameters() if p.grad is not None)
    needs.optimizer = sum(map(optimizer_size, optimizers))
    needs.peak = torch.cuda.max_memory_allocated() if on_gpu else max(_peak_resident() - resident, 0)
    needs.checkpoint = checkpoint_size(cfg, model, *optimizers)
    return needs


def largest_size(cfg: CfgNode) -> tuple[int, int]:
    """(height, width) of the largest batch that the training images give; (0, 0) where crops have the last word.

    The images of a batch are padded to the highest and the widest of them; with DATALOADER.ASPECT_RATIO_GROUPING they
    are all wider than high, or none is.
    """
    if cfg.INPUT.CROP.ENABLED or not max(cfg.INPUT.MIN_SIZE_TRAIN, default=0):
        return 0, 0
    groups: dict[bool, list[int]] = {}
    for record in itertools.chain.from_iterable(map(DatasetCatalog.get, cfg.DATASETS.TRAIN)):
        if "height" not in record or "width" not in record:
            return 0, 0
        size = T.ResizeShortestEdge.get_output_shape(
            record["height"], record["width"], max(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN
        )
        wide = cfg.DATALOADER.ASPECT_RATIO_GROUPING and size[1] > size[0]
        groups[wide] = [max(pair) for pair in zip(size, groups.get(wide, (0, 0)))]
    height, width = max(groups.values(), key=lambda size: size[0] * size[1], default=[0, 0])
    return height, width


def _enlarge(batch: list[dict[str, Any]], size: tuple[int, int], ignore: int) -> None:
    """Pads the images of a batch, and their label maps, to a size."""
    for sample in batch:
        for key, value in (("image", 0), ("sem_seg", ignore)):
            if key in sample:
                height, width = sample[key].shape[-2:]
                below, right = max(size[0] - height, 0), max(size[1] - width, 0)
                sample[key] = torch.nn.functional.pad(sample[key], (0, right, 0, below), value=value)


def _training_boxes(cfg: CfgNode) -> tuple[Tensor, Tensor]:
    """The boxes of the training data, resized as the middle one of the training sizes says, and their images' sizes."""
    sides = sorted(cfg.INPUT.MIN_SIZE_TRAIN)
    records = [
        record for name in cfg.DATASETS.TRAIN if isinstance(data := load_and_keep(name), list) for record in data
    ]
    return scaled_boxes(records, sides[len(sides) // 2], cfg.INPUT.MAX_SIZE_TRAIN)


def _step(trainer: Trainer, iteration: int) -> None:
    """One step of the training, with its work on the GPU done."""
    trainer.iter = trainer.storage.iter = iteration
    trainer.run_step()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _load_weights(cfg: CfgNode, model: nn.Module) -> None:
    """Loads the weights, if this needs no download: a file would be left behind."""
    if is_remote(cfg.MODEL.WEIGHTS):
        logging.getLogger(__name__).info(f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} is not downloaded for a dry run.")
    else:
        load_weights(cfg, model)


def count_parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Top module -> (parameters, those of them that learn); a parameter that several modules share counts once."""
    seen: set[int] = set()
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        total, learns = counts.get(top := name.partition(".")[0], (0, 0))
        counts[top] = (total + parameter.numel(), learns + parameter.numel() * parameter.requires_grad)
    return counts


def _padded_size(batch: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """(height, width) that holds every image of the batch."""
    sizes = [record["image"].shape[-2:] for record in batch]
    return max(int(size[0]) for size in sizes), max(int(size[1]) for size in sizes)


def _resident() -> int:
    """Bytes of this process in memory; its greatest size is counted anew from here, where the system can do that."""
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return _peak_resident()


def _peak_resident() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _device(cfg: CfgNode) -> str:
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        return "this machine"
    properties = torch.cuda.get_device_properties(torch.device(cfg.MODEL.DEVICE))
    return f"{properties.name} ({readable(properties.total_memory)})"


def report(cfg: CfgNode, needs: Needs, config_file: str, processes: int = 1) -> str:
    """The measurements in words and numbers."""
    count, (height, width) = needs.images
    total, learns = (sum(numbers) for numbers in zip(*needs.parameters.values()))
    modules = sorted(needs.parameters.items(), key=lambda item: -item[1][0])
    table = [(f"  {name}", f"{a / 1e6:.2f} M", f"{b / 1e6:.2f} M") for name, (a, b) in modules]
    rows = [("model", f"{total / 1e6:.2f} M", f"{learns / 1e6:.2f} M"), *table]
    wait, workers = needs.data_time, cfg.DATALOADER.NUM_WORKERS
    pace = max(needs.step_time, wait / workers) if workers else needs.step_time + wait
    duration, checkpoints = _duration(cfg.SOLVER.MAX_ITER * pace), planned_checkpoints(cfg)
    room = f"{readable(free_space(cfg.OUTPUT_DIR))} are free in {os.path.abspath(cfg.OUTPUT_DIR)}"
    of = f", its share of {cfg.SOLVER.IMS_PER_BATCH} for {processes} processes" if processes > 1 else ""
    measured = "measured" if cfg.MODEL.DEVICE.startswith("cuda") else "an estimate, by how much this process grew"
    lines = [
        f"dry run of {config_file or 'the defaults'} on {_device(cfg)}; {versions()}",
        tabulate(
            rows, headers=("", "parameters", "that learn"), tablefmt="simple", colalign=("left", "right", "right")
        ),
        f"data         {', '.join(cfg.DATASETS.TRAIN)}; a step takes {count} images{of}, here up to {height} x {width}",
        f"losses       {', '.join(f'{name} {value:.4g}' for name, value in needs.losses.items())}",
        *([f"anchors      {needs.anchors}"] if needs.anchors else []),
        f"FLOPs        {needs.forward_flops / 1e9:.4g} G forward for each image, {needs.step_flops / 1e9:.4g} G "
        "for the step (multiplications and additions of matrix products, convolutions and attention)",
        f"memory       weights {readable(needs.weights)}, gradients {readable(needs.gradients)}, optimizer "
        f"{readable(needs.optimizer)}; {readable(needs.peak)} at the height of the step ({measured})",
        f"time         {needs.step_time:.3g} s for the step, {wait:.3g} s to load its images in one process "
        f"(DATALOADER.NUM_WORKERS {workers})",
        f"             {cfg.SOLVER.MAX_ITER} of them (SOLVER.MAX_ITER) take about {duration}, without evaluations",
        f"checkpoints  {readable(needs.checkpoint)} each, {checkpoints} of them "
        f"{readable(needs.checkpoint * checkpoints)}; {room}",
        "nothing was written",
    ]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min"
