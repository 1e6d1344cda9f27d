"""Stopping on request: a signal ends the run after the step that is going on, with nothing lost.

SLURM sends SIGTERM (or what ``--signal`` names, usually SIGUSR1) some time before it takes a machine away; Ctrl-C sends
SIGINT, and a second one ends the run at once.
"""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from densekit.d2.utils import comm

INTERRUPTED = 130  # as shells call the end by SIGINT
REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: not done, try again; for SLURM's RequeueExit and for wrappers
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
# A terminal sends SIGINT to all processes of a job, and torchrun passes its own on: within so many seconds it is one.
_ECHO = 0.5


def stop_signals() -> tuple[int, ...]:
    """The signals that ask this process to stop; where it was started to ignore SIGINT, it goes on doing so."""
    return SIGNALS if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else (*SIGNALS, signal.SIGINT)


def exit_code(number: int) -> int:
    """The code with which a process ends that a signal has asked to."""
    return INTERRUPTED if number == signal.SIGINT else REQUEUE


def say(line: str) -> None:
    """Writes a line to the screen from a signal's handler, which may have interrupted an ordinary writer."""
    os.write(2, f"{line}\n".encode())


class StopRequest:
    """A request to stop this process: inside its block signals are noted instead of ending it.

    It is to be entered in the main thread; elsewhere it notes nothing.
    """

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}
        self._group: Any = None

    def __enter__(self) -> "StopRequest":
        self.received = 0
        try:
            self._before = {number: signal.signal(number, self._note) for number in stop_signals()}
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
        if number == signal.SIGINT:
            if self.received == number and time.monotonic() - self._since > _ECHO:
                raise KeyboardInterrupt
            if not self.received:
                self._since = time.monotonic()
                if comm.is_main_process():
                    say("Ctrl-C: this step is finished and saved first. Press it again to end at once.")
        self.received = number

    def agreed(self) -> int:
        """The signal by which any process has been asked to stop, 0 for none; all must call this at the same point."""
        if self._group is None:
            return self.received
        asked = torch.tensor([self.received])
        dist.all_reduce(asked, op=dist.ReduceOp.MAX, group=self._group)
        return int(asked.item())

    def leave_if_received(self, what: str = "The evaluation stops here; a resumed run begins it anew.") -> None:
        """Ends the process in the middle of work that it does alone, where it cannot agree with the others first.

        Args:
            what: ends, and what a resumed run makes of it.
        """
        if self.received:
            leave(what, self.received)


# Signals belong to the process, and so does this.
STOP = StopRequest()


class AgreedStop(SystemExit):
    """All processes end after the same step."""


@contextmanager
def leaving_on_signals() -> Iterator[None]:
    """In the block a signal ends the process at once, SIGTERM with the code that asks for another try.

    For the time before a training and for evaluations alone, where there is nothing to finish or to save.
    """

    def end(number: int, frame: FrameType | None) -> None:
        code = exit_code(number)
        logging.getLogger(__name__).warning(f"Ended by {signal.Signals(number).name}. Exit code {code}.")
        raise SystemExit(code)

    try:
        before = {number: signal.signal(number, end) for number in stop_signals()}
    except ValueError:  # signals belong to the main thread
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(what: str, number: int, end: type[SystemExit] = SystemExit) -> None:
    """Ends the process with the code of the signal."""
    code = exit_code(number)
    who = "Ctrl-C" if code == INTERRUPTED else "a signal"
    logging.getLogger(__name__).warning(f"Asked to stop by {who}. {what} Exit code {code}; go on with --resume.")
    raise end(code)
