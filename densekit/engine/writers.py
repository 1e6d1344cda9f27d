"""``metrics.json``: one strict JSON object per line."""

import json
import os
from pathlib import Path
from typing import Any

from densekit.d2.utils.events import EventWriter, get_event_storage
from densekit.ops.files import atomic_write, strict


class MetricsWriter(EventWriter):
    """Appends what is new in the storage, an object with ``iteration`` for each iteration.

    Detectron2's own writer spells a number that is undefined as ``NaN``, which is no JSON; here it is ``null``.

    Args:
        path: the file; a resumed run appends to it.
        window_size: losses are medians over so many iterations.
    """

    def __init__(self, path: str, window_size: int = 20) -> None:
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._window_size = window_size
        self._written = -1

    def write(self) -> None:
        lines: dict[int, dict[str, float | None]] = {}
        for name, (value, step) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if step > self._written:
                lines.setdefault(step, {"iteration": step})[name] = strict(float(value))
        for step in sorted(lines):
            self._file.write(json.dumps(lines[step], sort_keys=True, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._written = max(lines, default=self._written)

    def close(self) -> None:
        self._file.close()


def write_results(path: str | Path, results: Any) -> None:
    """Writes nested results as strict JSON, atomically."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with atomic_write(path) as file:
        json.dump(strict(results), file, indent=2, allow_nan=False)
        file.write("\n")
