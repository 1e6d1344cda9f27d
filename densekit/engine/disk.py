"""Disk space of a run: an estimate of its files, a check before it begins, and the message when the disk is full."""

import errno
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from densekit.checkpoint.folder import CheckpointFolder
from densekit.d2.config import CfgNode
from densekit.d2.utils import comm
from densekit.engine.errors import DiskError

# Beside the tensors a checkpoint holds the schedule, random states and the names of everything.
_REST = 1 << 20
# Full, over a quota, over the limit of a file, read-only, broken.
_NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG, errno.EROFS, errno.EIO)


def checkpoint_size(cfg: CfgNode, model: nn.Module, *optimizers: torch.optim.Optimizer) -> int:
    """Bytes of a checkpoint: weights, what the optimizers hold beside them after their first step, their average."""
    weights = tensor_bytes(model.state_dict(keep_vars=True).values())
    averages = int(cfg.MODEL_EMA.ENABLED)
    states = sum(max(optimizer_size(optimizer), _expected_state(optimizer)) for optimizer in optimizers)
    return (1 + averages) * weights + states + _REST


def optimizer_size(optimizer: torch.optim.Optimizer) -> int:
    """Bytes that an optimizer holds beside the parameters, at this moment."""
    values = [value for state in optimizer.state.values() for value in state.values()]
    return tensor_bytes(value for value in values if isinstance(value, torch.Tensor))


def _expected_state(optimizer: torch.optim.Optimizer) -> int:
    """The same before the first step: two numbers for each weight (Adam and its like), one with momentum, or none."""
    total = 0
    for group in optimizer.param_groups:
        numbers = 2 if "betas" in group else int(bool(group.get("momentum")))
        total += numbers * tensor_bytes(parameter for parameter in group["params"] if parameter.requires_grad)
    return total


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of some tensors; one that occurs under several names counts once, one that is sharded counts whole."""
    return sum({id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())


def planned_checkpoints(cfg: CfgNode, done: int = 0) -> int:
    """Counts the checkpoints on the disk when the run has ended, the last and the best included.

    Args:
        cfg: the configuration.
        done: iterations that are done already.
    """
    last, solver = cfg.SOLVER.MAX_ITER, cfg.SOLVER
    steps = {step for p in (solver.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD) if p > 0 for step in range(p, last, p)}
    periodic = sum(step > done for step in steps)
    best = bool(cfg.TEST.BEST_METRIC)
    if solver.CHECKPOINT_KEEP:
        periodic = min(periodic, solver.CHECKPOINT_KEEP + best * solver.CHECKPOINT_KEEP_BEST)
    return periodic + 1 + best


def check_space(cfg: CfgNode, size: int, done: int = 0) -> None:
    """Compares the room on the disk of ``OUTPUT_DIR`` with the checkpoints to come; to be called in all processes.

    Args:
        cfg: the configuration.
        size: bytes of one checkpoint.
        done: iterations that are done already.

    Raises:
        ValueError: not even one checkpoint fits. That all of them do not fit is a warning: other things may go.
    """
    free, count = comm.all_gather(free_space(cfg.OUTPUT_DIR))[0], planned_checkpoints(cfg, done)
    if free < size:
        raise ValueError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR!r}: the disk has {readable(free)} free, and a checkpoint takes about "
            f"{readable(size)}. Free some of it, or choose a folder on another disk."
        )
    # A checkpoint that is replaced goes after the new one is whole.
    needed = (count + bool(cfg.SOLVER.CHECKPOINT_KEEP)) * size
    if free < needed:
        rule = f"SOLVER.CHECKPOINT_KEEP {cfg.SOLVER.CHECKPOINT_KEEP}"
        logging.getLogger(__name__).warning(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR!r}: the disk has {readable(free)} free, and the run will write {count} "
            f"checkpoints of about {readable(size)} each, {readable(needed)} in all ({rule}, SOLVER.CHECKPOINT_PERIOD "
            f"{cfg.SOLVER.CHECKPOINT_PERIOD}). Free some of it, or keep fewer: SOLVER.CHECKPOINT_KEEP 2"
        )


def free_space(folder: str) -> int:
    """Bytes that can be written below a folder, which need not exist yet."""
    place = os.path.abspath(folder)
    while not os.path.exists(place):
        place = os.path.dirname(place)
    return shutil.disk_usage(place).free


def readable(size: float) -> str:
    """A number of bytes for people."""
    units = iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while abs(size) >= 1024 and unit != "TiB":
        size, unit = size / 1024, next(units)
    return f"{size:.3g} {unit}" if size < 100 else f"{size:.0f} {unit}"


@contextmanager
def full_disk_explained(folder: str) -> Iterator[None]:
    """Says plainly that the disk is full, whatever was being written.

    Args:
        folder: OUTPUT_DIR.

    Raises:
        DiskError: in place of the error, which names the checkpoint that can be resumed.
    """
    try:
        yield
    except Exception as error:
        reason = _lack_of_room(error)
        if reason is None:
            raise
        whole = next((file.name for file in CheckpointFolder(folder).newest_first()), None)
        remedy = f"{whole} is whole, and --resume goes on from it" if whole else "There is no checkpoint yet"
        raise DiskError(f"OUTPUT_DIR {folder!r} cannot be written: {reason}. Free some space. {remedy}.") from error


def _lack_of_room(error: BaseException | None) -> str | None:
    """Returns the system's words about the disk in an error or in its causes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return error.strerror or str(error)
        error = error.__cause__ or error.__context__
    return None
