"""The folder of a run belongs to one process at a time, and its ``metrics.json`` to one run.

``run.json`` names the run by an id that stays through all its interruptions. Another run that begins in the same folder
moves the lines of the earlier one aside; one that is resumed drops the lines that a killed process had written after
the checkpoint, for it writes them again.
"""

import contextlib
import errno
import json
import logging
import os
import socket
import uuid
from pathlib import Path
from typing import IO, Any

from densekit.files.atomic import atomic_write, strict

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["RunFolder", "claim", "release"]

METRICS = "metrics.json"
_FACTS, _LOCK = "run.json", ".lock"
_REFUSED = (errno.EACCES, errno.EAGAIN)

# Locks belong to the process, and so do these: path -> open file. They go with the process, however it ends.
_claimed: dict[Path, IO[str]] = {}


def claim(folder: str | Path) -> None:
    """Makes sure that no other process runs in this folder, until :func:`release` or the end of this process.

    The lock is a record lock, which processes of data loaders do not inherit: none that outlives a killed run holds it.

    Raises:
        ValueError: Another process runs there.
    """
    path = Path(folder).resolve() / _LOCK
    if fcntl is None or path in _claimed:
        return
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - stays open
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "an unknown process"
        file.close()
        if error.errno in _REFUSED:
            raise ValueError(
                f"OUTPUT_DIR {folder!r} is in use by another run, {holder}. Stop that one first, or choose another "
                "folder: OUTPUT_DIR runs/other"
            ) from error
        logging.getLogger(__name__).warning(
            f"The file system of OUTPUT_DIR {folder} has no locks ({error.strerror}): take care that no two runs "
            "use it."
        )
        return
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _claimed[path] = file


def release() -> None:
    """Gives back what this process has claimed."""
    while _claimed:
        _claimed.popitem()[1].close()


class RunFolder:
    """``run.json`` and ``metrics.json`` of an OUTPUT_DIR; for the main process.

    Args:
        path: OUTPUT_DIR.

    Attributes:
        id: of the run; empty before :meth:`begin`.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.id = ""

    @property
    def facts(self) -> dict[str, Any]:
        """Content of ``run.json``; nothing where it is missing or damaged."""
        try:
            facts = json.loads((self._path / _FACTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def note(self, **facts: Any) -> None:
        """Adds to ``run.json``."""
        with atomic_write(self._path / _FACTS) as file:
            json.dump(strict(self.facts | facts), file, indent=1, allow_nan=False)
            file.write("\n")

    def begin(self) -> None:
        """Begins a new run at iteration 0."""
        self.id = uuid.uuid4().hex
        self._move_aside()
        (self._path / _FACTS).unlink(missing_ok=True)
        self.note(run_id=self.id)

    def go_on(self, run_id: str | None, start: int, *, evaluated: bool) -> None:
        """Goes on with a run.

        Args:
            run_id: of the checkpoint; None in those of other programs.
            start: the next iteration; lines from there on go.
            evaluated: whether the run had reached its end: it has then a line with the results alone under that number.
        """
        self.id = run_id or self.facts.get("run_id") or uuid.uuid4().hex
        if self.facts.get("run_id") not in (None, self.id):
            logging.getLogger(__name__).warning(
                f"The checkpoint is of an earlier run, {self.id[:12]}: the last one that began in {self._path}, "
                f"{self.facts['run_id'][:12]}, has left none, and is given up."
            )
            (self._path / _FACTS).unlink(missing_ok=True)
        self.note(run_id=self.id)
        lines = read_lines(self._path / METRICS)
        if any(line.get("run_id", self.id) != self.id for line in lines):
            self._move_aside()
            own = self._path / _aside(self.id)
            lines = read_lines(own)
            own.unlink(missing_ok=True)
        kept = [line for line in lines if line["iteration"] < start or (evaluated and _is_result(line, start))]
        if len(kept) < len(lines):
            logging.getLogger(__name__).info(
                f"{len(lines) - len(kept)} lines of {METRICS} from iteration {start} on are dropped; this run writes "
                "them again."
            )
        with atomic_write(self._path / METRICS) as file:
            file.writelines(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in kept)

    def _move_aside(self) -> None:
        """Keeps the lines of an earlier run under its own id."""
        path = self._path / METRICS
        if not path.is_file() or path.stat().st_size == 0:
            return
        owner = next((line["run_id"] for line in read_lines(path) if "run_id" in line), None)
        target = self._path / _aside(str(owner or int(path.stat().st_mtime)))
        os.replace(path, target)
        logging.getLogger(__name__).warning(f"{path} is that of an earlier run; it is {target.name} now.")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file that are whole; a run that is killed may leave half of one."""
    lines = []
    with contextlib.suppress(FileNotFoundError):
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("iteration"), int):
                lines.append(strict(line))
    return lines


def _aside(run_id: str) -> str:
    return f"metrics_{run_id[:12]}.json"


def _is_result(line: dict[str, Any], iteration: int) -> bool:
    return line["iteration"] == iteration and "total_loss" not in line
