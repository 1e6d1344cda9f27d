"""``metrics.json``, one strict JSON object per line, and what the writers of metrics have in common."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from densekit.d2.utils.events import EventWriter, get_event_storage
from densekit.files.atomic import atomic_write, strict

# Noisy metrics are medians over so many iterations.
_WINDOW = 20


class ScalarWriter(EventWriter):
    """Brings what is new in the storage somewhere, iteration by iteration."""

    def __init__(self) -> None:
        self._written: dict[str, int] = {}  # metric -> iteration
        self._newest = -1

    def write(self) -> None:
        lines: dict[int, dict[str, float]] = {}
        for name, (value, step) in get_event_storage().latest_with_smoothing_hint(_WINDOW).items():
            if step >= self._newest and step > self._written.get(name, -1):
                lines.setdefault(step, {})[name] = float(value)
                self._written[name] = step
        if lines:
            self._newest = max(lines)
            self.put(dict(sorted(lines.items())))

    def put(self, lines: dict[int, dict[str, float]]) -> None:
        """Writes the metrics of some iterations: iteration -> name -> value."""
        raise NotImplementedError


class MetricsWriter(ScalarWriter):
    """Appends an object with ``iteration`` and ``run_id`` for each iteration.

    Detectron2's own writer spells a number that is undefined as ``NaN``, which is no JSON; here it is ``null``. What
    belongs to the last iteration of the file joins its line, so that no iteration stands twice.

    Args:
        path: the file; a resumed run appends to it.
        run_id: of the run.
    """

    def __init__(self, path: str | Path, run_id: str = "") -> None:
        super().__init__()
        self._file = open(path, "ab+")  # noqa: SIM115 - closed by close()
        self._common = {"run_id": run_id} if run_id else {}
        self._file.seek(0)
        text = self._file.read()
        last = text.rstrip(b"\n").rpartition(b"\n")[2]
        self._begin = text.rfind(last) if last else 0  # of the last line, in bytes
        self._last: dict[str, Any] = json.loads(last) if last else {}

    def put(self, lines: dict[int, dict[str, float]]) -> None:
        for step, values in lines.items():
            line = {"iteration": step} | self._common | {name: strict(value) for name, value in values.items()}
            if self._last.get("iteration") == step:
                line = self._last | line
                self._file.truncate(self._begin)
            self._begin = self._file.seek(0, os.SEEK_END)
            self._file.write(json.dumps(line, sort_keys=True, allow_nan=False).encode() + b"\n")
            self._last = line
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class Lazily(EventWriter):
    """A writer that is made when there is something to write, by when it is known where the training begins.

    Args:
        make: makes it.
    """

    def __init__(self, make: Callable[[], EventWriter]) -> None:
        self._make = make
        self._writer: EventWriter | None = None

    def write(self) -> None:
        self._writer = self._writer or self._make()
        self._writer.write()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def write_results(path: str | Path, results: Any) -> None:
    """Writes nested results as strict JSON, atomically."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with atomic_write(path) as file:
        json.dump(strict(results), file, indent=2, allow_nan=False)
        file.write("\n")
