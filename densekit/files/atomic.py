"""Files that are there in full or not at all."""

import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_write(path: str | Path, mode: str = "w", *, durable: bool = True) -> Iterator[IO[Any]]:
    """Opens a file that takes its name only when the block ends without an error.

    The bytes go to a temporary file in the same folder and reach the disk before the rename, so a reader, a crash or a
    full disk never meets half a file and an older file of that name survives a failure.

    Args:
        path: the file to write; its folder exists.
        mode: ``"w"`` for text (UTF-8) or ``"wb"`` for bytes.
        durable: wait for the disk, which takes longer than to write a small file. Without it only a failure of the
            whole machine can leave a damaged file.

    Yields:
        The open temporary file.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.part")
    # Opened like any file of the user's, and not by tempfile: the umask, which belongs to all threads, stays untouched.
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        # Names of files that are no UTF-8 come from the system with placeholders, which become \\udcXX.
        encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
        with os.fdopen(handle, mode, encoding=encoding, errors=errors) as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def leads_out(name: str, root: str | Path | None = None) -> bool:
    """Tells whether a file name read from a file points outside the folder that it should be relative to.

    Symbolic links are not followed: they are the doing of whoever owns the folder.

    Args:
        name: maybe with folders.
        root: the folder; where it is known, an absolute name below it is in order.
    """
    if os.path.isabs(name):
        parent = None if root is None else os.path.abspath(root)
        return parent is None or os.path.commonpath([parent, os.path.normpath(name)]) != parent
    return "\0" in name or os.path.normpath(name).split(os.sep)[0] == os.pardir


def strict(value: Any) -> Any:
    """The same nested value for strict JSON, with ``None`` for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else None
