"""Logging: messages on the screen of the main process, and a file for each process, which also gets the details."""

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

_DATE = "%m/%d %H:%M:%S"
_PLAIN = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=_DATE)
_GREEN, _RED, _RESET = "\033[32m", "\033[31m", "\033[0m"

_counts: Counter[tuple[Any, ...]] = Counter()
_last_logged: dict[tuple[Any, ...], float] = {}


def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "densekit",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Sends the messages of a logger to the screen and to a file; calling it again adds nothing twice.

    The file gets all of them, the screen those from INFO upwards.

    Args:
        output: A folder, which gets ``log.txt``, or a file ending in ``.txt`` or ``.log``; ``None`` for no file. Ranks
            above 0 write to that name with ``.rankN`` added.
        distributed_rank: Of this process; only rank 0 writes to the screen.
        color: Colour the screen's lines, where the screen is a terminal.
        name: Of the logger; those below it are included.
        abbrev_name: Shown in its place on the screen; "" shows nothing.
        enable_propagation: Also hand messages to the loggers above.
        configure_stdout: Write to the screen at all.

    Returns:
        The logger.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    if configure_stdout and distributed_rank == 0:
        _add_screen(logger, color, name, name if abbrev_name is None else abbrev_name)
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        _add_file(logger, os.path.abspath(path + (f".rank{distributed_rank}" if distributed_rank > 0 else "")))
    return logger


def _add_screen(logger: logging.Logger, color: bool, name: str, shown_name: str) -> None:
    screens = [h for h in logger.handlers if isinstance(h, logging.StreamHandler) and h.name == "screen"]
    screen = screens[0] if screens else logging.StreamHandler(sys.stdout)
    screen.stream = sys.stdout  # it may have been redirected since, and the old one closed
    screen.setFormatter(_ScreenFormatter(color and sys.stdout.isatty(), name, shown_name))
    if not screens:
        screen.name = "screen"
        screen.setLevel(logging.INFO)
        logger.addHandler(screen)


def _add_file(logger: logging.Logger, path: str) -> None:
    if any(isinstance(h, logging.FileHandler) and h.baseFilename == path for h in logger.handlers):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(_PLAIN)
    logger.addHandler(handler)


class _ScreenFormatter(logging.Formatter):
    """``[date logger]: message``, with the level in front from warnings upwards."""

    def __init__(self, color: bool, name: str, shown_name: str) -> None:
        super().__init__(datefmt=_DATE)
        self._color = color
        self._name = name
        self._shown_name = shown_name

    def format(self, record: logging.LogRecord) -> str:
        source = record.name
        if source == self._name or source.startswith(self._name + "."):
            source = (self._shown_name + source.removeprefix(self._name)).lstrip(".")
        head = f"[{self.formatTime(record, self.datefmt)} {source}]:"
        level = f"{record.levelname} " if record.levelno >= logging.WARNING else ""
        if self._color:
            head = f"{_GREEN}{head}{_RESET}"
            level = f"{_RED}{level}{_RESET}" if level else ""
        text = f"{level}{head} {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def log_first_n(
    lvl: int, msg: str, n: int = 1, *, name: str | None = None, key: str | Sequence[str] = "caller"
) -> None:
    """Logs only the first ``n`` times.

    Args:
        lvl: Level, as in :mod:`logging`.
        msg: The message.
        n: How often.
        name: Of the logger; the caller's module by default.
        key: What counts as the same: ``"caller"`` (the line of code), ``"message"``, or both as a tuple.

    Raises:
        ValueError: ``key`` is neither.
    """
    parts = (key,) if isinstance(key, str) else tuple(key)
    if not parts or not set(parts) <= {"caller", "message"}:
        raise ValueError(f"key={key!r} must be 'caller', 'message' or both.")
    module, caller = _caller()
    identity = (("first",) + (caller if "caller" in parts else ())) + ((msg,) if "message" in parts else ())
    _counts[identity] += 1
    if _counts[identity] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Logs the first of every ``n`` calls from the same line of code; arguments as in :func:`log_first_n`."""
    module, caller = _caller()
    identity = ("every", *caller)
    if _counts[identity] % n == 0:
        logging.getLogger(name or module).log(lvl, msg)
    _counts[identity] += 1


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: str | None = None) -> None:
    """Logs at most once in ``n`` seconds from the same line of code; arguments as in :func:`log_first_n`."""
    module, caller = _caller()
    now = time.monotonic()
    if caller not in _last_logged or now - _last_logged[caller] >= n:
        _last_logged[caller] = now
        logging.getLogger(name or module).log(lvl, msg)


def _caller() -> tuple[str, tuple[Any, ...]]:
    """Module and place of the code that called the function that calls this."""
    frame = sys._getframe(2)
    module = frame.f_globals.get("__name__", "__main__")
    return "densekit" if module == "__main__" else module, (frame.f_code.co_filename, frame.f_lineno)


def create_small_table(small_dict: dict[str, Any]) -> str:
    """A Markdown table with the keys as header and the values as its one row, numbers with three decimals."""
    return tabulate(
        [list(small_dict.values())],
        headers=list(small_dict),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )
