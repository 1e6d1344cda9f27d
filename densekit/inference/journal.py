"""Finished pictures as JSON Lines that survive a kill: each process appends to a file of its own, the end joins them.

Lines are written one after the other, each with its line break last, so of a killed process only the last line can be
torn, and a torn line has no line break. Nobody ever appends to another process's file: a process that outlives its
parent for a moment cannot harm the next run. Doubles, which such a process may leave, are dropped at reading.
"""

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densekit.files.atomic import atomic_write

JOINED = "predictions.jsonl"
PARTS = "parts"

Line = dict[str, Any]


class Part:
    """The file of this process and this run.

    Args:
        folder: of the output.
    """

    def __init__(self, folder: Path) -> None:
        parts = folder / PARTS
        parts.mkdir(exist_ok=True)
        self._file = open(parts / f"{uuid.uuid4().hex}.jsonl", "wb")  # noqa: SIM115 - closed by close()

    def append(self, line: Mapping[str, Any]) -> None:
        """Writes one picture's line."""
        self._file.write(json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class _Place:
    """Place of a line: file, first byte, number of bytes with the line break."""

    path: Path
    start: int
    length: int


class Journal:
    """Record of the pictures in an output folder that are finished.

    Args:
        folder: of the output.
        valid: says of a line whether it still holds; others are forgotten.
    """

    def __init__(self, folder: Path, valid: Callable[[Line], bool]) -> None:
        self._folder = folder
        self._places: dict[int, _Place] = {}
        self.problems: dict[int, str] = {}
        for path in [folder / JOINED, *sorted((folder / PARTS).glob("*.jsonl"))]:
            for place, raw in _raw_lines(path):
                line = _parsed(raw)
                if line is None:
                    continue
                if "problem" in line:
                    self.problems[line["index"]] = line["problem"]
                elif line["index"] not in self._places and valid(line):
                    self._places[line["index"]] = place

    @property
    def done(self) -> set[int]:
        """The indices of the finished pictures."""
        return set(self._places)

    def join(self) -> Path:
        """Makes one file of all parts, in the order of the input, and removes them."""
        target = self._folder / JOINED
        with atomic_write(target, "wb") as file:
            for index in sorted(self._places):
                file.write(_bytes(self._places[index]))
        shutil.rmtree(self._folder / PARTS, ignore_errors=True)
        for litter in self._folder.rglob(".*.part"):  # of atomic writes that a kill has cut off
            litter.unlink()
        return target


class JoinedLines:
    """The lines of a joined file by their order, read when asked for.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places = [place for place, _ in _raw_lines(path)]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Line:
        return json.loads(_bytes(self._places[number]))

    def __iter__(self) -> Iterator[Line]:
        return (json.loads(raw) for _, raw in _raw_lines(self._path))


def _raw_lines(path: Path) -> Iterator[tuple[_Place, bytes]]:
    """Goes through a file; there may be no such file."""
    if not path.exists():
        return
    start = 0
    with open(path, "rb") as file:
        for raw in file:
            yield _Place(path, start, len(raw)), raw
            start += len(raw)


def _parsed(raw: bytes) -> Line | None:
    """A line that is whole; a kill tears the last one, and a power failure can leave anything."""
    try:
        line = json.loads(raw) if raw.endswith(b"\n") else None
    except ValueError:
        return None
    return line if isinstance(line, dict) and "index" in line else None


def _bytes(place: _Place) -> bytes:
    with open(place.path, "rb") as file:
        file.seek(place.start)
        return file.read(place.length)
