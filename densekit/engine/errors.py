"""Mistakes of the user end in one line that says what to change; faults of the program end in a traceback."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from densekit.d2.utils import comm
from densekit.ops.packages import MissingPackageError

USER_ERROR = 2  # the exit code that argparse uses for a wrong command line


class DataError(ValueError):
    """An end of the run that is no fault of the program, as an image that cannot be used; the message names it."""


class NotFiniteError(DataError, FloatingPointError):
    """A loss or gradient is infinite or NaN; the message says where and what to try."""


_OF_SET_UP = (ValueError, KeyError, OSError, MissingPackageError)


class DiskError(DataError):
    """The disk of the run's folder is full or fails."""


@contextmanager
def user_errors(kinds: tuple[type[Exception], ...] = _OF_SET_UP) -> Iterator[None]:
    """Ends the process with ``error: <message>`` and code 2 where the block raises an error of one of these kinds.

    The line is in the run's ``log.txt`` too, if that has been begun.
    ``DENSEKIT_TRACEBACK=1`` in the environment lets errors through.

    Args:
        kinds: by default those that set-up raises about configuration, files and data.
    """
    try:
        yield
    except kinds as error:
        if os.environ.get("DENSEKIT_TRACEBACK", "0") not in ("", "0"):
            raise
        # Every process meets the same mistake in the configuration, but only one the image that cannot be read.
        # Nor do all of them see what keeps them apart.
        if comm.is_main_process() or isinstance(error, (DataError, ConnectionError)):
            # str() of a KeyError is the repr of its message
            message = error.args[0] if isinstance(error, KeyError) and error.args else error
            sys.stdout.flush()
            print(f"error: {message}", file=sys.stderr, flush=True)
            _write_down(f"error: {message}")
        raise SystemExit(USER_ERROR) from error


def _write_down(line: str) -> None:
    """Adds a line to the log file of this process and to that of the first; the screen has shown it."""
    logger = logging.getLogger("densekit")
    record = logger.makeRecord(__name__, logging.ERROR, __file__, 0, line, (), None)
    for handler in logger.handlers:
        own = getattr(getattr(handler, "stream", None), "name", "")
        for path in {str(own), str(own).removesuffix(f".rank{comm.get_rank()}")}:
            # Not through the handler, which would show a traceback where the disk is full.
            if os.path.isfile(path):
                with suppress(OSError), open(path, "a", encoding="utf-8") as file:
                    file.write(f"{handler.format(record)}\n")
