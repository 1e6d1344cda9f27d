"""Before a job of several processes begins: is everybody here, and can they add one number?

Without it a machine that is missing shows as silence for half an hour, and then as an error of a library.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from densekit.engine.errors import USER_ERROR

__all__ = ["call_roll", "deadline", "own_name", "time_limit", "try_collective"]


def time_limit() -> float:
    """Seconds that the processes of a job have to find each other: DENSEKIT_START_SECONDS, 30 by default.

    Raises:
        ValueError: it is no positive number.
    """
    text = os.environ.get("DENSEKIT_START_SECONDS") or "30"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"DENSEKIT_START_SECONDS is {text!r}; it must be a number of seconds, such as 120.")
    return seconds


def own_name() -> str:
    """This process for messages."""
    return f"{socket.gethostname()}, process {os.getpid()}"


def call_roll(store: dist.Store, rank: int, world_size: int, address: str, limit: float) -> None:
    """Returns when all processes are here.

    Args:
        store: in which each writes its name; nothing else has used it.
        rank: of this process.
        world_size: processes in the job.
        address: of the store, with the backend, for the message.
        limit: seconds that rank 0 waits for the others, and they for it.

    Raises:
        ConnectionError: some are missing; rank 0 names them.
        SystemExit: the same in the other processes, after rank 0 has said it.
    """
    store.set(f"here/{rank}", own_name())
    if rank:
        if not _has(store, "here/0", limit):
            raise ConnectionError(
                f"Rank 0 has not come to {address} within {limit:g} s; rank {rank} ({own_name()}) has waited."
            )
        if not _has(store, "roll", limit + 5) or store.get("roll") != b"complete":
            raise SystemExit(USER_ERROR)
        return
    names = _names(store, "here", world_size, limit)
    missing = [str(number) for number in range(world_size) if number not in names]
    store.set("roll", "missing" if missing else "complete")
    if missing:
        present = "; ".join(f"rank {number}: {name}" for number, name in names.items())
        raise ConnectionError(
            f"{len(missing)} of {world_size} processes have not come to {address} within {limit:g} s: missing "
            f"rank{'s' * (len(missing) > 1)} {', '.join(missing)}. Here are {present}. Look at the output of the "
            "missing ones; a slow start needs DENSEKIT_START_SECONDS=120 in the environment of all."
        )


def try_collective(store: dist.Store, address: str, device: str, limit: float) -> None:
    """Sums a one over all processes; if that does not work within the limit, ends the process with a message.

    Args:
        store: of the job.
        address: of the store, with the backend, for the message.
        device: of the numbers, ``"cpu"`` or ``"cuda"``.
        limit: seconds.

    Raises:
        ConnectionError: the backend says that it does not work.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()

    def problem(reason: str) -> str:
        done = _names(store, "sum", world_size, 0.5)
        others = ", ".join(str(number) for number in range(world_size) if number not in done)
        return (
            f"The processes of this job met at {address}, but rank {rank} ({own_name()}) cannot compute with the "
            f"others: {reason}. Not through it: rank {others}. On several networks name the one to use, "
            "GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME=eth0, on all machines; a firewall has to let all ports through."
        )

    with deadline(limit, lambda: problem(f"no answer within {limit:g} s")):
        try:
            one = torch.ones(1, device=device)
            dist.all_reduce(one)
            total = int(one.item())
        except RuntimeError as error:
            raise ConnectionError(problem(str(error).splitlines()[0])) from error
    if total != world_size:
        raise ConnectionError(problem(f"the sum of {world_size} ones is {total}"))
    store.set(f"sum/{rank}", own_name())
    if rank == 0:
        logging.getLogger(__name__).info(f"{world_size} processes met at {address}.")


@contextmanager
def deadline(limit: float, message: Callable[[], str]) -> Iterator[None]:
    """Ends the process with a message when the block takes longer: what hangs in torch cannot be interrupted."""

    def end() -> None:
        print(f"error: {message()}", file=sys.stderr, flush=True)
        os._exit(USER_ERROR)

    timer = threading.Timer(limit, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _names(store: dist.Store, key: str, world_size: int, limit: float) -> dict[int, str]:
    """Rank -> what it has written under ``key``, for those that do so before the limit."""
    until = time.monotonic() + limit
    found = {}
    for rank in range(world_size):
        if _has(store, f"{key}/{rank}", max(0.01, until - time.monotonic())):
            found[rank] = store.get(f"{key}/{rank}").decode()
    return found


def _has(store: dist.Store, key: str, limit: float) -> bool:
    try:
        store.wait([key], timedelta(seconds=limit))
    except RuntimeError:  # torch raises DistStoreError
        return False
    return True
