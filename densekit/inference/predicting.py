"""The loop: batches that are not finished go through the model, and their results to the recorder."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from densekit.d2.utils import comm
from densekit.engine.errors import DataError
from densekit.inference.outputs import Kept, keep
from densekit.inference.reading import Loaded, Views
from densekit.inference.recorder import Recorder

logger = logging.getLogger(__name__)

_NARROW = 32  # pixels of a side, as resized: many models cannot take less


def open_batches(count: int, size: int, done: set[int]) -> list[list[int]]:
    """Cuts the numbers 0 .. count - 1 into batches and returns those that are not finished in full.

    A batch is predicted whole even if only one of its pictures is missing, because its pictures are padded to one size.
    """
    batches = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
    return [batch for batch in batches if not done.issuperset(batch)]


def predict_batches(
    model: Any,
    views: Views,
    batches: Sequence[list[int]],
    recorder: Recorder,
    *,
    products: Sequence[str],
    batch_size: int,
    num_workers: int,
    strict: bool,
) -> None:
    """Predicts batches of pictures.

    Args:
        model: in eval mode.
        views: all pictures.
        batches: numbers of the pictures of each.
        recorder: takes the results.
        products: which parts of the outputs to keep.
        batch_size: views that the model gets at once.
        num_workers: processes that read pictures.
        strict: stop at a picture that cannot be read.

    Raises:
        DataError: With ``strict``, such a picture; or the model does not fit its data set.
    """
    loader = DataLoader(views, batch_sampler=batches, num_workers=num_workers, collate_fn=list)
    items = iter(loader)  # starts the processes, which should not inherit the recorder's thread
    count, started = sum(map(len, batches)), time.perf_counter()
    with (
        torch.no_grad(),
        recorder,
        tqdm(total=count, desc=_title(), unit="image", disable=None, smoothing=0.05) as bar,
    ):
        for batch in items:
            for loaded, kept in predict_batch(model, batch, batch_size, products):
                if loaded.problem:
                    _unreadable(loaded, recorder, strict)
                else:
                    recorder.put(loaded, kept)
            bar.update(len(batch))
    seconds = time.perf_counter() - started
    logger.info(f"{count} pictures in {seconds:.1f} s, {count / max(seconds, 1e-9):.2f} a second in this process")


def predict_batch(
    model: Any, batch: Sequence[Loaded], batch_size: int, products: Sequence[str]
) -> Iterator[tuple[Loaded, list[Kept]]]:
    """Predicts a batch of pictures, apart from those that have a problem.

    Args:
        model: in eval mode.
        batch: its pictures.
        batch_size: views that the model gets at once.
        products: which parts of the outputs to keep.

    Yields:
        Each picture with what is kept of each of its views; one that is too narrow for the model has its problem now.
    """
    yield from ((loaded, []) for loaded in batch if loaded.problem)
    yield from _survivors(model, [loaded for loaded in batch if not loaded.problem], batch_size, products)


def _unreadable(loaded: Loaded, recorder: Recorder, strict: bool) -> None:
    if strict:
        raise DataError(f"{loaded.problem}. Without --strict such pictures are skipped.")
    logger.warning(loaded.problem)
    recorder.put(loaded, [])


def _survivors(
    model: Any, batch: Sequence[Loaded], batch_size: int, products: Sequence[str]
) -> Iterator[tuple[Loaded, list[Kept]]]:
    """Pictures with what is kept of them; one that is too narrow for the model gets its problem instead."""
    try:
        yield from zip(batch, _outputs(model, batch, batch_size, products))
    except (ValueError, RuntimeError) as error:
        narrow = [loaded for loaded in batch if min(min(view["image"].shape[1:]) for view in loaded.views) < _NARROW]
        if not narrow or isinstance(error, torch.OutOfMemoryError):
            raise
        for loaded in narrow:
            height, width = loaded.size
            reason = " ".join(str(error).split())
            yield replace(loaded, problem=f"{loaded.picture.path}, {width} x {height} pixels: {reason}"), []
        yield from _survivors(model, [loaded for loaded in batch if loaded not in narrow], batch_size, products)


def _outputs(model: Any, batch: Sequence[Loaded], batch_size: int, products: Sequence[str]) -> list[list[Kept]]:
    """Returns the kept outputs of each view of each picture; the views of all pictures share the model's batches."""
    views = [view for loaded in batch for view in loaded.views]
    kept: list[Kept] = []
    for start in range(0, len(views), batch_size):
        kept += [keep(output, products) for output in model(views[start : start + batch_size])]
    remaining = iter(kept)
    return [[next(remaining) for _ in loaded.views] for loaded in batch]


def _title() -> str:
    world = comm.get_world_size()
    return "predict" if world == 1 else f"predict (1 of {world} processes)"
