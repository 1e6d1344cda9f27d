"""A loader that can say what it gave last."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from densekit.data.loader import start_workers
from densekit.engine.errors import DataError


class RememberedBatches:
    """Passes the batches of a loader on, remembers the file names of the last, and names bad data plainly.

    Args:
        loader: an iterable of batches; a batch is a list of records with ``file_name``.
        before_each: called before each batch.
        device: where the tensors of the records go; a GPU copies them from pinned memory while the process goes on.

    Attributes:
        last_files: of the last batch.
        look_at_next: called once with the next batch, before anything can change it.
    """

    def __init__(
        self, loader: Iterable[Any], before_each: Callable[[], None] = lambda: None, device: str = "cpu"
    ) -> None:
        self.loader = loader
        self._device = device
        self._before_each = before_each
        self.last_files: list[str] = []
        self.look_at_next: Callable[[Any], None] | None = None

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        batches = start_workers(self.loader)
        while True:
            self._before_each()
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (ValueError, OSError, EOFError) as error:
                if getattr(self.loader, "num_workers", 0) and "DataLoader worker" not in str(error):
                    raise DataError(_death(error)) from error  # a worker died while its images were being handed over
                raise DataError(_own_message(error)) from error
            self.last_files = [str(record.get("file_name", "?")) for record in batch if isinstance(record, dict)]
            if self.look_at_next is not None:
                look, self.look_at_next = self.look_at_next, None
                look(batch)
            yield batch if self._device == "cpu" else [_on_device(record, self._device) for record in batch]


def _on_device(record: Any, device: str) -> Any:
    """The record with its images and label maps on a device; instances are copied by the model that knows them."""
    if not isinstance(record, dict):
        return record
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in record.items()
    }


@contextmanager
def deaths_of_workers_explained() -> Iterator[None]:
    """Says plainly that a loader's process has died; torch reports it at whatever line the run has come to.

    Raises:
        DataError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if not re.match(r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)", str(error)):
            raise
        raise DataError(_death(error)) from error


def _death(error: Exception) -> str:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return (
        f"A process that loads images has died: {reason} Most often the machine ran out of memory: lower "
        "DATALOADER.NUM_WORKERS. --resume goes on from the last checkpoint."
    )


def _own_message(error: Exception) -> str:
    """The message that was raised; a loader process puts its traceback in front of it."""
    text = str(error)
    # Python writes the module before the names of errors that are not its own.
    raised = re.split(rf"\n(?:\w+\.)*{type(error).__name__}: ", text)
    return raised[-1].strip() if "DataLoader worker" in text else text
