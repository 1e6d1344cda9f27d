"""Stopping on request: a scheduler's signal ends the run after the step that is going on, with nothing lost.

SLURM sends SIGTERM (or what ``--signal`` names, usually SIGUSR1) some time before it takes a machine away.
"""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from densekit.d2.utils import comm

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: not done, try again; for SLURM's RequeueExit and for wrappers
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopRequest:
    """Whether this process has been asked to stop; inside its block signals are noted instead of dying of them.

    It is to be entered in the main thread; elsewhere it notes nothing.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}
        self._group: Any = None

    def __enter__(self) -> "StopRequest":
        self.received = 0
        try:
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        except ValueError:  # signals belong to the main thread
            self._before = {}
        # Of its own, over the CPU: the answer must not make a GPU wait.
        self._group = dist.new_group(backend="gloo") if comm.get_world_size() > 1 else None
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before, self.received = {}, 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def agreed(self) -> bool:
        """Whether any process has been asked to stop; every process must call this at the same point."""
        if self._group is None:
            return bool(self.received)
        asked = torch.tensor([self.received])
        dist.all_reduce(asked, op=dist.ReduceOp.MAX, group=self._group)
        return bool(asked.item())

    def leave_if_received(self) -> None:
        """Ends the process in the middle of an evaluation, where it cannot agree with the others first."""
        if self.received:
            leave("The evaluation stops here; a resumed run begins it anew.")


# Signals belong to the process, and so does this.
STOP = StopRequest()


class AgreedStop(SystemExit):
    """All processes end after the same step."""


@contextmanager
def leaving_on_signals() -> Iterator[None]:
    """In the block a signal ends the process at once, with the code that asks for another try.

    For the time before a training and for evaluations alone, where there is nothing to finish or to save.
    """

    def end(number: int, frame: FrameType | None) -> None:
        logging.getLogger(__name__).warning(f"Ended by {signal.Signals(number).name}. Exit code {REQUEUE}.")
        raise SystemExit(REQUEUE)

    try:
        before = {number: signal.signal(number, end) for number in SIGNALS}
    except ValueError:  # signals belong to the main thread
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(what: str, end: type[SystemExit] = SystemExit) -> None:
    """Ends the process with the code that asks for another try."""
    logging.getLogger(__name__).warning(f"Asked to stop by a signal. {what} Exit code {REQUEUE}; go on with --resume.")
    raise end(REQUEUE)
