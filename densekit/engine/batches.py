"""A loader that can say what it gave last."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from densekit.data.loader import start_workers
from densekit.engine.errors import DataError


class RememberedBatches:
    """Passes the batches of a loader on, remembers the file names of the last, and names bad data plainly.

    Args:
        loader: an iterable of batches; a batch is a list of records with ``file_name``.
        before_each: called before each batch.
    """

    def __init__(self, loader: Iterable[Any], before_each: Callable[[], None] = lambda: None) -> None:
        self.loader = loader
        self._before_each = before_each
        self.last_files: list[str] = []

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
            except (ValueError, OSError) as error:
                raise DataError(_own_message(error)) from error
            self.last_files = [str(record.get("file_name", "?")) for record in batch if isinstance(record, dict)]
            yield batch


def _own_message(error: Exception) -> str:
    """The message that was raised; a loader process puts its traceback in front of it."""
    text = str(error)
    # Python writes the module before the names of errors that are not its own.
    raised = re.split(rf"\n(?:\w+\.)*{type(error).__name__}: ", text)
    return raised[-1].strip() if "DataLoader worker" in text else text
