"""One process of a job that ends, ends all of them, within seconds and with its name.

Nothing in a process group does that: NCCL waits for a process that is gone until its time-out, and gloo's error names
the neighbour that noticed. Here every process holds a connection to rank 0, which the system closes whatever way a
process ends; rank 0 tells the others. Keep-alive probes find machines that vanish without a word.
"""

import json
import logging
import os
import secrets
import selectors
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch.distributed as dist

from densekit.engine.launch.place import Place
from densekit.engine.self_test import own_name
from densekit.ops.process_end import exit_code

# Seconds: how long the main thread has for ending by itself, and how long an error waits for word of an earlier one.
_GRACE = 6.0
_HEARSAY = 2.0
_CONNECT = 10.0
_INTERRUPTED = 130  # as shells say it of Ctrl-C
_LONGEST = 20_000  # characters of a traceback


@dataclass(frozen=True)
class End:
    """The end of a process.

    Attributes:
        rank, name: of the process.
        code: its exit code; 0 is peaceful.
        traceback: of the error that ended it, if it was one.
        silent: it could not say anything any more.
    """

    rank: int
    name: str
    code: int
    traceback: str = ""
    silent: bool = False

    def __str__(self) -> str:
        how = f"ended with exit code {self.code}"
        if self.silent:
            how = "ended without a word: killed, for want of memory perhaps, or its machine is gone"
        elif self.traceback:
            how = f"failed: {self.traceback.strip().splitlines()[-1]}"
        return f"Rank {self.rank} ({self.name}) {how}"


@contextmanager
def watched(store: dist.Store, place: Place, host: str) -> Iterator[None]:
    """Ends this process when another one of the job ends before its time, and tells the others if this one does.

    Args:
        store: of the job; rank 0 puts its address there.
        place: this process.
        host: where the processes have met, which may be the machine of rank 0.

    Raises:
        SystemExit: with the code of the process that ended first, for errors that are only its consequence.
    """
    watch = _Watch(store, place, host)
    try:
        yield
    except SystemExit as error:
        watch.leave(exit_code(error))
        raise
    except KeyboardInterrupt:
        watch.leave(_INTERRUPTED)
        raise
    except Exception:
        watch.follow(_HEARSAY)
        text = traceback.format_exc()[-_LONGEST:]
        with suppress(RuntimeError):  # the store may be gone
            store.set(f"failed/{place.rank}", f"Rank {place.rank} ({own_name()}) failed:\n{text}")
        watch.leave(1, text)
        if place.starter != "--num-gpus":  # there the command that started the processes says it
            print(f"rank {place.rank} ({own_name()}) failed:", file=sys.stderr, flush=True)
        raise
    watch.leave(0)


def failure(store: dist.Store, ranks: list[int]) -> str:
    """Returns the message of the first of these processes that failed by an error of its own; empty if none did."""
    keys = [f"failed/{rank}" for rank in ranks]
    return next((store.get(key).decode() for key in keys if store.check([key])), "")


class _Watch:
    """The connections of this process: to all others on rank 0, to rank 0 elsewhere."""

    def __init__(self, store: dist.Store, place: Place, host: str) -> None:
        self._rank, self._world_size = place.rank, place.world_size
        self._first: End | None = None
        self._told = threading.Event()
        self._peers: dict[int, tuple[socket.socket, str, _Lines]] = {}
        self._lock = threading.Lock()
        self._left = False
        if place.rank == 0:
            self._serve(store, "127.0.0.1" if place.local_size == place.world_size else "", host)
        else:
            self._connect(store)
        os.register_at_fork(after_in_child=self._close)  # a loader's process must not keep a connection open

    def _serve(self, store: dist.Store, interface: str, host: str) -> None:
        """Waits for the others; they may come by any of the names of this machine."""
        with socket.create_server((interface, 0), backlog=self._world_size) as listener:
            port, token = listener.getsockname()[1], secrets.token_hex(16)
            address = {"port": port, "token": token, "hosts": _own_hosts(interface, host), "name": own_name()}
            store.set("watch", json.dumps(address))
            until = time.monotonic() + _CONNECT
            while len(self._peers) < self._world_size - 1 and (left := until - time.monotonic()) > 0:
                listener.settimeout(left)
                with suppress(OSError, ValueError, KeyError, TypeError):
                    connection, _ = listener.accept()
                    connection.settimeout(_CONNECT)
                    lines = _Lines(connection)
                    greeting = lines.read_one()
                    if secrets.compare_digest(greeting["token"], token):
                        self._peers[int(greeting["rank"])] = (connection, str(greeting["name"]), lines)
        if len(self._peers) < self._world_size - 1:
            missing = sorted(set(range(1, self._world_size)) - set(self._peers))
            logging.getLogger(__name__).warning(
                f"Ranks {', '.join(map(str, missing))} cannot connect to {own_name()}, port {port}: if one of them "
                "ends, the others notice by the time-outs of the process group only."
            )
        self._start()

    def _connect(self, store: dist.Store) -> None:
        server = json.loads(store.get("watch"))
        for host in server["hosts"]:
            with suppress(OSError):
                connection = socket.create_connection((host, server["port"]), timeout=_CONNECT / 3)
                connection.sendall(_line({"token": server["token"], "rank": self._rank, "name": own_name()}))
                self._peers[0] = (connection, server["name"], _Lines(connection))
                break
        self._start()

    def _start(self) -> None:
        for connection, *_ in self._peers.values():
            connection.settimeout(None)
            _keep_alive(connection)
        threading.Thread(target=self._watch_peers, name="densekit-watch", daemon=True).start()

    def _watch_peers(self) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, (connection, _, lines) in self._peers.items():
                # One that has ended at once may have said so together with its greeting.
                if not self._take(rank, [End(**message) for message in lines.arrived()]):
                    selector.register(connection, selectors.EVENT_READ, rank)
            while selector.get_map():
                for key, _ in selector.select():
                    _, name, lines = self._peers[key.data]
                    if self._take(key.data, _ends(key.data, name, lines)):
                        selector.unregister(key.fileobj)

    def _take(self, rank: int, ends: list[End]) -> bool:
        """Notes the ends that a connection reports, and tells whether its own process is among them."""
        for end in ends:
            if end.code:
                self._hear(end)
        return any(end.rank == rank for end in ends)

    def _hear(self, end: End) -> None:
        """Notes the first end, passes it on, and sees to it that this process ends too."""
        with self._lock:
            if self._first is not None or self._left:
                return
            self._first = end
        if self._rank == 0:
            self._tell(end)
        if end.silent or end.traceback:  # at once: whoever started this process may end it now
            self._say(end)
        timer = threading.Timer(_GRACE, self._give_up)
        timer.daemon = True
        timer.start()
        self._told.set()

    def _tell(self, end: End) -> None:
        for connection, *_ in self._peers.values():
            with suppress(OSError):
                connection.sendall(_line(asdict(end)))

    def follow(self, seconds: float) -> None:
        """Does not return if word comes that another process ended before this one, whose error is then no news."""
        if self._told.wait(seconds):
            time.sleep(2 * _GRACE)  # in the meantime the other one ends, and whoever started it sees it end first

    def _give_up(self) -> None:
        """Ends this process at once, for it may be waiting for one that is gone."""
        first = self._first
        if first is None or self._left:
            return
        if not (first.silent or first.traceback):
            self._say(first)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(first.code)

    def _say(self, end: End) -> None:
        logger = logging.getLogger(__name__)
        logger.error(f"{end}. Rank {self._rank} ends with it.")
        if end.traceback:
            logger.debug(end.traceback)  # for the log file; that process has shown it
        if end.silent and end.rank == 0 and self._rank == 1:  # the logs of other ranks are not on the screen
            print(f"error: {end}.", file=sys.stderr, flush=True)

    def leave(self, code: int, trace: str = "") -> None:
        """Tells the others how this process ends."""
        with self._lock:
            self._left = True
        self._tell(End(self._rank, own_name(), code, trace))

    def _close(self) -> None:
        for connection, *_ in self._peers.values():
            connection.close()


def _ends(rank: int, name: str, lines: "_Lines") -> list[End]:
    """Returns the ends that a connection reports; its closing without a word counts as one."""
    try:
        return [End(**message) for message in lines.read()]
    except (OSError, ValueError, TypeError):
        return [End(rank, name, 1, silent=True)]


class _Lines:
    """JSON messages of a connection, one in a line."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._bytes = connection, b""

    def read(self) -> list[Any]:
        """Waits for some bytes and returns the messages that are complete, maybe none yet.

        Raises:
            ConnectionError: the connection is closed.
        """
        self._receive()
        return self.arrived()

    def arrived(self) -> list[Any]:
        """The messages that are here already."""
        *lines, self._bytes = self._bytes.split(b"\n")
        return [json.loads(line) for line in lines]

    def read_one(self) -> Any:
        """Waits for one message; what has come after it stays for later."""
        while b"\n" not in self._bytes:
            self._receive()
        line, self._bytes = self._bytes.split(b"\n", 1)
        return json.loads(line)

    def _receive(self) -> None:
        received = self._connection.recv(1 << 16)
        if not received:
            raise ConnectionError("closed")
        self._bytes += received


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _own_hosts(interface: str, rendezvous: str) -> list[str]:
    """Addresses of this machine as others may reach it, the likeliest first."""
    if interface:
        return [interface]
    hosts = []
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((rendezvous, 9))  # sends nothing: it only looks up from which address it would
        hosts.append(probe.getsockname()[0])
    return list(dict.fromkeys([*hosts, rendezvous, socket.gethostname()]))


def _keep_alive(connection: socket.socket) -> None:
    """Lets the system notice within half a minute that the other machine is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
