"""Schedule of a run: epochs in iterations, and learning rates for another batch size.

Keys of a configuration belong together: steps to the number of iterations that they were chosen for, a learning rate to
its batch size. What the user gives counts as it is; what comes from a base file is adapted to it. Of two keys the one
on the command line is nearer than that in the configuration file, and that nearer than one in its bases.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from densekit.config import explicit_keys
from densekit.d2.config import CfgNode
from densekit.d2.engine import HookBase
from densekit.d2.utils import comm
from densekit.d2.utils.events import CommonMetricPrinter, get_event_storage
from densekit.data.progress import Progress

Priorities = Mapping[str, int]


def priorities(config_file: str, opts: Sequence[Any]) -> Priorities:
    """Returns each key's priority: 2 on the command line, 1 in the file; keys set only in its bases are left out."""
    return dict.fromkeys(explicit_keys(config_file), 1) | dict.fromkeys(opts[::2], 2)


def scale_learning_rate(cfg: CfgNode, given: Priorities) -> str | None:
    """Adapts BASE_LR, chosen for REFERENCE_BATCH_SIZE images in a step, to IMS_PER_BATCH, unless it stands nearer.

    With SGD the rate is proportional to the batch (Goyal et al., arXiv 1706.02677), with AdamW to its square root
    (Malladi et al., arXiv 2205.10287). BASE_LR_END follows it. Afterwards REFERENCE_BATCH_SIZE is IMS_PER_BATCH, so
    that the configuration of a run starts the same run again.

    Args:
        cfg: not frozen.
        given: where the keys stand.

    Returns:
        A line for the log if the rate has changed.

    Raises:
        ValueError: REFERENCE_BATCH_SIZE is negative.
    """
    solver = cfg.SOLVER
    reference, images = solver.REFERENCE_BATCH_SIZE, solver.IMS_PER_BATCH
    if reference < 0:
        raise ValueError(f"SOLVER.REFERENCE_BATCH_SIZE is {reference}; give a number of images, or 0 for no scaling.")
    if reference in (0, images) or images <= 0:
        return None
    solver.REFERENCE_BATCH_SIZE = images
    if given.get("SOLVER.BASE_LR", 0) > given.get("SOLVER.REFERENCE_BATCH_SIZE", 0):
        return None
    before, factor, rule = solver.BASE_LR, images / reference, "in proportion"
    if solver.OPTIMIZER == "AdamW":
        factor, rule = math.sqrt(factor), "with its square root"
    solver.BASE_LR = before * factor
    if given.get("SOLVER.BASE_LR_END", 0) < 2:
        solver.BASE_LR_END = solver.BASE_LR_END * factor
    return (
        f"Learning rate: SOLVER.BASE_LR {before:g} -> {solver.BASE_LR:g}, as a step has {images} images instead of "
        f"{reference} ({rule}). SOLVER.REFERENCE_BATCH_SIZE 0 or a SOLVER.BASE_LR of your own switches that off."
    )


def in_iterations(cfg: CfgNode, epoch_size: int | None, given: Priorities) -> CfgNode:
    """Turns MAX_EPOCHS into MAX_ITER and adapts what is counted in iterations, unless it stands as near as MAX_EPOCHS.

    STEPS, EVAL_PERIOD and CHECKPOINT_PERIOD keep their share of the run; WARMUP_ITERS does if the run becomes shorter.

    Args:
        cfg: of the run.
        epoch_size: images in an epoch; None if nobody knows.
        given: where the keys stand.

    Returns:
        ``cfg`` itself, or a changed copy.

    Raises:
        ValueError: MAX_EPOCHS is no positive number, contradicts MAX_ITER, or the data set has no end.
    """
    epochs, before = cfg.SOLVER.MAX_EPOCHS, cfg.SOLVER.MAX_ITER
    if not (math.isfinite(epochs) and epochs >= 0):
        raise ValueError(f"SOLVER.MAX_EPOCHS is {epochs}; give a positive number, or 0 to count in SOLVER.MAX_ITER.")
    distance = given.get("SOLVER.MAX_EPOCHS", 0)
    if epochs == 0 or given.get("SOLVER.MAX_ITER", 0) > distance:
        return cfg
    if given.get("SOLVER.MAX_ITER") == distance == 2:
        raise ValueError(f"SOLVER.MAX_EPOCHS {epochs:g} and SOLVER.MAX_ITER {before} both say how long; leave one out.")
    if not epoch_size:
        raise ValueError("SOLVER.MAX_EPOCHS: a stream of images has no epochs. Give SOLVER.MAX_ITER instead.")
    # Less than a millionth of a step over is an error of rounding.
    iterations = max(1, math.ceil(epochs * epoch_size / cfg.SOLVER.IMS_PER_BATCH - 1e-6))
    scaled = cfg.clone()
    scaled.defrost()
    scaled.SOLVER.MAX_ITER = iterations
    follows = [key for key in _FOLLOWERS if not 0 < given.get(key, 0) >= distance]
    changes = _follow(scaled, follows, iterations / before)
    logging.getLogger(__name__).info(
        f"{epochs:g} epochs of {epoch_size} images: SOLVER.MAX_ITER {before} -> {iterations}"
        + "".join(f", {key} {old} -> {new}" for key, old, new in changes)
    )
    if cfg.is_frozen():
        scaled.freeze()
    return scaled


def training_plan(cfg: CfgNode, epoch_size: int | None) -> Progress:
    """Returns the first iteration of a run, which knows its length.

    Args:
        cfg: of the run, its epochs turned into iterations.
        epoch_size: images in an epoch; None if nobody knows.
    """
    return Progress(0, cfg.SOLVER.MAX_ITER, epoch_size / cfg.SOLVER.IMS_PER_BATCH if epoch_size else None)


_FOLLOWERS = ("SOLVER.STEPS", "SOLVER.WARMUP_ITERS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")


def _follow(cfg: CfgNode, keys: Sequence[str], factor: float) -> list[tuple[str, Any, Any]]:
    """Scales these keys; returns key, old and new value of those that changed."""
    changes = []
    for key in keys:
        section, name = key.split(".")
        node = cfg[section]
        old = node[name]
        if not old:
            continue
        if name == "STEPS":
            node[name] = _increasing([round(step * factor) for step in old])
        else:
            node[name] = max(1, round(old * (min(factor, 1.0) if name == "WARMUP_ITERS" else factor)))
        if node[name] != old:
            changes.append((key, old, node[name]))
    return changes


def _increasing(steps: Sequence[int]) -> tuple[int, ...]:
    """Keeps steps apart that a short run would bring together."""
    apart: list[int] = []
    for step in steps:
        apart.append(max(step, apart[-1] + 1 if apart else 1))
    return tuple(apart)


class EpochHook(HookBase):
    """Stores how many epochs are done as ``epoch``, and calls the trainer's ``after_epoch`` at the end of each.

    Args:
        images: in a step over all processes.
        epoch_size: images in an epoch.
    """

    def __init__(self, images: int, epoch_size: int) -> None:
        self._images, self._epoch_size = images, epoch_size

    def after_step(self) -> None:
        if comm.is_main_process():
            done = (self.trainer.iter + 1) * self._images / self._epoch_size
            self.trainer.storage.put_scalar("epoch", done, smoothing_hint=False)
        before = self.trainer.iter * self._images // self._epoch_size
        for epoch in range(before, (self.trainer.iter + 1) * self._images // self._epoch_size):
            self.trainer.after_epoch(epoch)


class ProgressPrinter(CommonMetricPrinter):
    """The host's line of progress, with the epoch where it is known."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        super().__init__(max_iter, window_size)
        self.logger = _WithEpoch(self.logger, {})  # type: ignore[assignment]


class _WithEpoch(logging.LoggerAdapter):
    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        epoch = get_event_storage().latest().get("epoch")
        return (msg if epoch is None else f"{str(msg).rstrip()}  epoch: {epoch[0]:.2f}"), kwargs
