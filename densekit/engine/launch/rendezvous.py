"""The rendezvous of a job's processes: its address, and the store that they open there."""

import re
import socket
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

import torch.distributed as dist

from densekit.engine.launch.place import Place
from densekit.engine.self_test import deadline


@dataclass(frozen=True)
class Rendezvous:
    """Address of the store of a job.

    Attributes:
        host, port: its address.
        opened: whether it is there already, opened by whoever started the processes; otherwise rank 0 opens it.
        attempt: of processes that were started anew; what an earlier attempt has left in the store is another's.
        remedy: what to do where the port is taken.
    """

    host: str
    port: int
    opened: bool
    remedy: str
    attempt: str = "0"


def rendezvous_from_environment(place: Place, env: Mapping[str, str]) -> Rendezvous:
    """Finds the store that torchrun's processes share, or the tasks of ``srun``.

    Raises:
        ValueError: the environment does not say.
    """
    if place.starter == "SLURM":
        return _slurm_rendezvous(place, env)
    if not {"MASTER_ADDR", "MASTER_PORT"} <= env.keys():
        raise ValueError(
            "RANK and WORLD_SIZE are set, but not MASTER_ADDR and MASTER_PORT: start with torchrun, which sets all, "
            "or set them to the machine of rank 0 and a free port there."
        )
    return Rendezvous(
        env["MASTER_ADDR"],
        int(env["MASTER_PORT"]),
        opened=env.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        remedy="choose another one: torchrun --master_port PORT, or --rdzv_endpoint HOST:PORT",
        attempt=env.get("TORCHELASTIC_RESTART_COUNT", "0"),
    )


def _slurm_rendezvous(place: Place, env: Mapping[str, str]) -> Rendezvous:
    """On the first machine of the step; all its tasks find the same address without a word between them."""
    host = env.get("MASTER_ADDR", "127.0.0.1" if place.local_size == place.world_size else "")
    if not host:
        lists = [env[name] for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST") if env.get(name)]
        if not lists:
            raise ValueError(
                "SLURM gives no list of machines (SLURM_STEP_NODELIST, SLURM_JOB_NODELIST): export MASTER_ADDR=HOST, "
                "the first of them, before srun."
            )
        host = host_names(lists[0])[0]
    # Another number for other jobs and steps, below the range from which systems hand out ports.
    number = int(env.get("SLURM_JOB_ID", "0")) + 1009 * int(env.get("SLURM_STEP_ID", "0"))
    port = int(env.get("MASTER_PORT", 15000 + number % 15000))
    return Rendezvous(host, port, opened=False, remedy=f"choose another one: export MASTER_PORT={port + 1} before srun")


def host_names(text: str) -> list[str]:
    """Returns the machines of a SLURM list such as ``node[01-03,07],gpu-5``.

    Raises:
        ValueError: it is no such list.
    """
    parts = re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text)
    names = [name for part in parts for name in _expanded(part)]
    if not names or any(mark in name for name in names for mark in "[]") or ",".join(parts) != text:
        raise ValueError(f"SLURM's list of machines {text!r} cannot be read: export MASTER_ADDR=HOST before srun.")
    return names


def _expanded(part: str) -> list[str]:
    """``rack[1-2]n[08-10]`` -> rack1n08, rack1n09 ...; numbers keep their leading zeros."""
    match = re.fullmatch(r"([^\[]*)\[(\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)\](.*)", part)
    if match is None:
        return [part]
    before, ranges, after = match.groups()
    numbers: list[str] = []
    for first, _, last in (piece.partition("-") for piece in ranges.split(",")):
        numbers += [str(n).zfill(len(first)) for n in range(int(first), int(last or first) + 1)]
    return [f"{before}{number}{rest}" for number in numbers for rest in _expanded(after)]


def rendezvous_from_url(url: str) -> Rendezvous:
    """Finds the store of ``--num-machines``: ``tcp://HOST:PORT``, opened by the command on machine 0.

    Raises:
        ValueError: the address is none.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme != "tcp":
        raise ValueError(f"--dist-url {url!r} is no address: write tcp://HOST:PORT, or auto on a single machine.")
    return Rendezvous(host, port, opened=True, remedy="choose another one on all machines: --dist-url tcp://HOST:PORT")


def open_store(rendezvous: Rendezvous, *, serve: bool, limit: float) -> dist.TCPStore:
    """Opens the store, or joins the one that another process opens.

    Args:
        rendezvous: the address; port 0 with ``serve`` takes a free one.
        serve: whether this process opens it.
        limit: seconds.

    Raises:
        ConnectionError: the port is taken, or nobody answers there.
    """
    address = f"{rendezvous.host}:{rendezvous.port}"

    def silence() -> str:
        return (
            f"{address}, the rendezvous of this job, has not greeted {socket.gethostname()} within {limit:g} "
            f"s: another program listens there, or none that can be reached; {rendezvous.remedy}."
        )

    try:
        # torch waits without end for a greeting from a program that takes the connection and says nothing.
        with nullcontext() if serve else deadline(limit + 2, silence):
            return dist.TCPStore(
                rendezvous.host,
                rendezvous.port,
                is_master=serve,
                wait_for_workers=False,
                timeout=timedelta(seconds=limit),
            )
    except RuntimeError as error:
        if serve and "EADDRINUSE" in str(error):
            raise ConnectionError(
                f"Port {rendezvous.port} of {socket.gethostname()} is taken: {rendezvous.remedy}."
            ) from error
        reason = str(error).splitlines()[0]
        raise ConnectionError(
            f"{socket.gethostname()} cannot reach {address}, the rendezvous of this job, within {limit:g} s: "
            f"did the first one start, and does a firewall let this machine through? ({reason})"
        ) from error


def job_store(store: dist.Store, rendezvous: Rendezvous) -> dist.Store:
    """The part of a store that belongs to this attempt of the job."""
    return dist.PrefixStore(f"densekit/{rendezvous.attempt}", store)
