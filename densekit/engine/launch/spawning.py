"""The processes that ``--num-gpus`` starts on this machine."""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import torch.multiprocessing as mp
from torch.multiprocessing.spawn import ProcessException, ProcessRaisedException

from densekit.engine.launch.joining import joined
from densekit.engine.launch.place import Place
from densekit.engine.launch.rendezvous import Rendezvous, job_store, open_store, rendezvous_from_url
from densekit.engine.launch.watch import failure
from densekit.engine.preemption import INTERRUPTED, REQUEUE, exit_code, say, stop_signals
from densekit.engine.self_test import time_limit
from densekit.ops.process_end import end_of_process
from densekit.run_options import Processes

# Seconds for processes to end by themselves when one has ended, then as many for obeying SIGTERM.
_GRACE = 15.0

Main = Callable[[Any], Any]


def spawn(main: Main, options: Processes, on_cpu: bool) -> None:
    """Runs ``main(options)`` in ``options.num_gpus`` new processes; an error in one of them ends all.

    Raises:
        ConnectionError, ValueError: the address of the rendezvous is taken, or is none.
        SystemExit: with the traceback or the exit code of the process that ended first.
    """
    size, world = options.num_gpus, options.num_gpus * options.num_machines
    places = [Place("--num-gpus", options.machine_rank * size + local, world, local, size) for local in range(size)]
    with _SignalsPassedOn() as signals:
        rendezvous, store = _open_rendezvous(options)
        work = (main, options, places, rendezvous, on_cpu, multiprocessing.get_start_method())
        context = mp.start_processes(_in_process, work, nprocs=size, join=False)
        signals.pass_to(context.pids())

        def name_of(error: ProcessException) -> str:
            index = error.error_index
            return f"Rank {places[index].rank} ({socket.gethostname()}, process {context.pids()[index]})"

        try:
            while not context.join(grace_period=_GRACE):
                pass
        except ProcessException as error:
            # The process that failed may take longer to end than those that end with it.
            if text := failure(job_store(store, rendezvous), [place.rank for place in places]) if store else "":
                sys.exit(text)
            if isinstance(error, ProcessRaisedException):
                sys.exit(f"{name_of(error)} failed:{error.msg}")
            codes = [process.exitcode or 0 for process in context.processes]
            sys.exit(_exit_code(error, name_of(error), signals.received, codes))
        finally:
            del store  # which had to stay open until here


def _open_rendezvous(options: Processes) -> tuple[Rendezvous, Any]:
    """The store is opened here, before there are processes: a port that the system chooses cannot be taken."""
    limit = time_limit()
    if options.num_machines == 1 and options.dist_url == "auto":
        store = open_store(Rendezvous("127.0.0.1", 0, opened=True, remedy="start again"), serve=True, limit=limit)
        return Rendezvous("127.0.0.1", store.port, opened=True, remedy=""), store
    rendezvous = rendezvous_from_url(options.dist_url)
    return rendezvous, open_store(rendezvous, serve=True, limit=limit) if options.machine_rank == 0 else None


def _in_process(
    local: int, main: Main, options: Processes, places: list[Place], rendezvous: Rendezvous, *how: Any
) -> None:
    on_cpu, loaders = how
    # Else this process, which was spawned, would spawn its loaders as well, each importing everything anew.
    multiprocessing.set_start_method(loaders, force=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starting process tells this one to stop, by SIGTERM
    with end_of_process(), joined(places[local], rendezvous, on_cpu):
        main(options)


def _exit_code(error: Any, name: str, received: int, codes: list[int]) -> int:
    """The code of this command for a process that ended with one of ``codes``; most have said why themselves."""
    if not error.signal_name:
        return exit_code(received) if received and error.exit_code == REQUEUE else error.exit_code
    if error.signal_name == "SIGABRT" and max(codes) > 0:
        return max(codes)  # torch may abort a process whose peers have left, and one of them has said why it did
    if received and error.signal_name == signal.Signals(_passed_on(received)).name:
        return exit_code(received)  # it was not yet ready for the signal, or no longer
    print(
        f"error: {name} was ended by {error.signal_name}; the others have been stopped. SIGKILL often means that the "
        "machine was out of memory.",
        file=sys.stderr,
        flush=True,
    )
    return 128 - error.exit_code  # as shells say it


def _passed_on(received: int) -> int:
    """The signal that the processes get; a terminal sends SIGINT to them, too, which they leave to this one."""
    return signal.SIGTERM if received == signal.SIGINT else received


class _SignalsPassedOn:
    """A scheduler may know only this process, but those that train can save what they have.

    A signal that comes before there are others waits for them. A second SIGINT ends them at once.
    """

    def __init__(self) -> None:
        self.received = 0
        self._pids: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_SignalsPassedOn":
        self._before = {number: signal.signal(number, self._note) for number in stop_signals()}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def pass_to(self, pids: list[int]) -> None:
        """From now on these processes get the signals."""
        self._pids = pids
        if self.received:
            self._send(_passed_on(self.received))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.received == number:
                self._send(signal.SIGKILL)
                raise SystemExit(INTERRUPTED)
            say("Ctrl-C: the processes finish this step and save it first. Press it again to end them at once.")
        self.received = number
        self._send(_passed_on(number))

    def _send(self, number: int) -> None:
        for pid in self._pids:
            with suppress(ProcessLookupError):  # it may have ended
                os.kill(pid, number)
