"""Metrics of a run: one storage that the parts of the model write to, and writers that bring them out.

``with EventStorage(start_iter) as storage:`` makes a storage current; a loss deep in a model reaches it through
:func:`get_event_storage`. Writers read the current storage each time ``write()`` is called.
"""

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

from densekit.runtime.utils.file_io import PathManager

_active: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """The storage of the innermost ``with EventStorage(...)``.

    Raises:
        RuntimeError: There is none.
    """
    if not _active:
        raise RuntimeError("There is no current EventStorage; run this inside `with EventStorage(...):`.")
    return _active[-1]


def has_event_storage() -> bool:
    """Tells whether :func:`get_event_storage` would find a storage."""
    return bool(_active)


@dataclass
class _Scalar:
    """All values of one metric."""

    smooth: bool  # noisy: writers show a median
    history: HistoryBuffer = field(default_factory=HistoryBuffer)
    latest: tuple[float, int] = (math.nan, -1)  # value, iteration

    def samples_within(self, iterations: int) -> int:
        """Counts the values put in during the ``iterations`` iterations up to the newest value."""
        values = self.history.values()
        oldest = self.latest[1] - iterations
        for count, (_, iteration) in enumerate(reversed(values)):
            if iteration <= oldest:
                return count
        return len(values)


class EventStorage:
    """Holds scalars with their history, and pictures and histograms until a writer takes them."""

    def __init__(self, start_iter: int = 0) -> None:
        self._iter = start_iter
        self._prefix = ""
        self._scalars: dict[str, _Scalar] = {}
        self._images: list[tuple[str, Any, int]] = []
        self._raw_histograms: list[dict[str, Any]] = []

    # Writing

    def put_scalar(
        self, name: str, value: float | torch.Tensor, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        """Adds one value of a metric.

        Args:
            name: Of the metric; the current :meth:`name_scope` goes before it.
            value: A number, or a tensor with one element (which waits for its device).
            smoothing_hint: Whether the metric is noisy, so that writers show a median of the recent values.
            cur_iter: Iteration it belongs to; the storage's own by default.

        Raises:
            ValueError: The metric was put with the other ``smoothing_hint`` before.
        """
        name = self._prefix + name
        scalar = self._scalars.setdefault(name, _Scalar(smoothing_hint))
        if scalar.smooth != smoothing_hint:
            raise ValueError(f"Metric '{name}' was put with smoothing_hint={scalar.smooth} before.")
        number, iteration = float(value), self._iter if cur_iter is None else cur_iter
        scalar.history.update(number, iteration)
        scalar.latest = (number, iteration)

    def put_scalars(
        self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: float | torch.Tensor
    ) -> None:
        """:meth:`put_scalar` for each keyword."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Keeps a picture for TensorBoard.

        Args:
            img_name: Its title.
            img_tensor: RGB tensor or array (3, H, W), uint8 in [0, 255] or float in [0, 1].
        """
        self._images.append((img_name, img_tensor, self._iter))

    def put_histogram(self, hist_name: str, hist_tensor: torch.Tensor, bins: int = 1000) -> None:
        """Keeps the histogram of a tensor's values for TensorBoard; computed here, on the tensor's device."""
        values = hist_tensor.detach().flatten().float()
        low, high = values.min().item(), values.max().item()
        self._raw_histograms.append(
            {
                "tag": hist_name,
                "global_step": self._iter,
                "min": low,
                "max": high,
                "num": values.numel(),
                "sum": values.sum().item(),
                "sum_squares": values.square().sum().item(),
                "bucket_limits": torch.linspace(low, high, bins + 1)[1:].tolist(),
                "bucket_counts": torch.histc(values, bins).tolist(),
            }
        )

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Puts ``name/`` before the names of scalars inside the ``with``."""
        outer = self._prefix
        self._prefix = name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = outer

    # Reading

    def history(self, name: str) -> HistoryBuffer:
        """All values of one metric.

        Raises:
            KeyError: It was never put.
        """
        if name not in self._scalars:
            raise KeyError(f"No metric named '{name}' was put; there are {sorted(self._scalars)}.")
        return self._scalars[name].history

    def histories(self) -> dict[str, HistoryBuffer]:
        """All values of all metrics."""
        return {name: scalar.history for name, scalar in self._scalars.items()}

    def latest(self) -> dict[str, tuple[float, int]]:
        """The newest value of each metric and its iteration."""
        return {name: scalar.latest for name, scalar in self._scalars.items()}

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """As :meth:`latest`; for noisy metrics the value is the median over the last ``window_size`` iterations."""
        shown = {}
        for name, scalar in self._scalars.items():
            value, iteration = scalar.latest
            if scalar.smooth:
                value = float(scalar.history.median(scalar.samples_within(window_size)))
            shown[name] = (value, iteration)
        return shown

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """Counts the values of a metric in its last ``window_size`` iterations."""
        self.history(name)
        return self._scalars[name].samples_within(window_size)

    def smoothing_hints(self) -> dict[str, bool]:
        """Tells for each metric whether it is noisy and shown smoothed."""
        return {name: scalar.smooth for name, scalar in self._scalars.items()}

    def take_images(self) -> list[tuple[str, Any, int]]:
        """The waiting pictures as (title, picture, iteration); the storage forgets them."""
        taken, self._images = self._images, []
        return taken

    def take_histograms(self) -> list[dict[str, Any]]:
        """The waiting histograms, as ``SummaryWriter.add_histogram_raw`` wants them; the storage forgets them."""
        taken, self._raw_histograms = self._raw_histograms, []
        return taken

    # Time

    @property
    def iter(self) -> int:
        """The current iteration; the training loop sets it."""
        return self._iter

    @iter.setter
    def iter(self, value: int) -> None:
        self._iter = int(value)

    def step(self) -> None:
        """Goes on to the next iteration."""
        self._iter += 1

    def __enter__(self) -> "EventStorage":
        _active.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _active.remove(self)


class EventWriter:
    """Brings the metrics of the current storage somewhere."""

    def write(self) -> None:
        """Writes what is new since the last call."""
        raise NotImplementedError

    def close(self) -> None:
        """Releases files; nothing is written afterwards."""


class JSONWriter(EventWriter):
    """Appends scalars to a JSON Lines file: one object for each iteration, with the field ``iteration``.

    The lines are strict JSON: a NaN or infinite value is written as ``null``.
    """

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        """Opens the file; earlier lines stay.

        Args:
            json_file: Its path.
            window_size: Iterations of the median for noisy metrics.
        """
        self._file = PathManager.open(json_file, "a")
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        lines: dict[int, dict[str, float | int | None]] = {}
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                line = lines.setdefault(iteration, {"iteration": iteration})
                line[name] = value if math.isfinite(value) else None
        if not lines:
            return
        self._last_write = max(lines)
        self._file.writelines(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in lines.values())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars, pictures and histograms for TensorBoard."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        """Prepares the writer; its file is made at the first write.

        Args:
            log_dir: Folder of the event files.
            window_size: Iterations of the median for noisy metrics.
            kwargs: For ``torch.utils.tensorboard.SummaryWriter``.
        """
        self._arguments = {"log_dir": log_dir, **kwargs}
        self._window_size = window_size
        self._last_write = -1

    @cached_property
    def _writer(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and not every run wants it

        return SummaryWriter(**self._arguments)

    def write(self) -> None:
        storage = get_event_storage()
        newest = self._last_write
        for name, (value, iteration) in storage.latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                newest = max(newest, iteration)
        self._last_write = newest
        for title, image, iteration in storage.take_images():
            self._writer.add_image(title, image, iteration)
        for histogram in storage.take_histograms():
            self._writer.add_histogram_raw(**histogram)

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs a line of progress: remaining time, iteration, losses, times of a step, learning rate, CUDA memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        """Prepares the printer.

        Args:
            max_iter: Iterations of the whole run, for the remaining time; without it that is left out.
            window_size: Iterations of the median for losses.
        """
        self.logger = logging.getLogger(__name__)
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None  # iteration, seconds

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # after the last iteration only evaluation results are new, and they have their own table
        histories = storage.histories()

        def median(name: str) -> str:
            return f"{name}: {histories[name].median(storage.count_samples(name, self._window_size)):.4g}"

        parts = [self._remaining_time(storage), f"iter: {storage.iter}"]
        parts += [median(name) for name in histories if "loss" in name]
        parts += [median(name) for name in histories if "[metric]" in name]
        if "time" in histories:
            parts.append(f"time: {histories['time'].global_avg():.4f}  last_time: {histories['time'].latest():.4f}")
        if "data_time" in histories:
            data_time = histories["data_time"]
            average = data_time.avg(storage.count_samples("data_time", self._window_size))
            parts.append(f"data_time: {average:.4f}  last_data_time: {data_time.latest():.4f}")
        parts.append(f"lr: {histories['lr'].latest():.5g}" if "lr" in histories else "lr: N/A")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info(" %s", "  ".join(filter(None, parts)))

    def _remaining_time(self, storage: EventStorage) -> str:
        """``eta: h:mm:ss`` from the median step, or from the clock where steps are not timed; empty if unknown."""
        if self._max_iter is None:
            return ""
        now, iteration = time.perf_counter(), storage.iter
        last, self._last_write = self._last_write, (iteration, now)
        remaining_steps = self._max_iter - iteration - 1
        if "time" in storage.histories():
            seconds = float(storage.history("time").median(1000)) * remaining_steps
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        elif last is not None and iteration > last[0]:
            seconds = (now - last[1]) / (iteration - last[0]) * remaining_steps
        else:
            return ""
        return f"eta: {timedelta(seconds=int(seconds))}"
