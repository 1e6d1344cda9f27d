"""Where the processes of a job meet, who is missing there, and what the end of one does to the others."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from densekit.engine.launch.elastic import continued, refuse_ambiguous_restarts
from densekit.engine.launch.place import Place
from densekit.engine.launch.rendezvous import (
    Rendezvous,
    host_names,
    open_store,
    rendezvous_from_environment,
    rendezvous_from_url,
)
from densekit.engine.launch.spawning import _exit_code
from densekit.engine.launch.watch import watched
from densekit.engine.preemption import REQUEUE
from densekit.engine.self_test import call_roll, time_limit
from densekit.run_options import RunOptions


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("alone", ["alone"]),
        ("node[01-03,07],gpu-5", ["node01", "node02", "node03", "node07", "gpu-5"]),
        ("node[8-11]", ["node8", "node9", "node10", "node11"]),
        ("rack[1-2]n[09-10]-ib", ["rack1n09-ib", "rack1n10-ib", "rack2n09-ib", "rack2n10-ib"]),
        ("a,b.example.org", ["a", "b.example.org"]),
    ],
)
def test_lists_of_machines(text, names):
    assert host_names(text) == names


@pytest.mark.parametrize("text", ["", "node[1-2", "node]1[", "node[a-b]", "a,,b"])
def test_what_is_no_list_of_machines_is_refused(text):
    with pytest.raises(ValueError, match="MASTER_ADDR"):
        host_names(text)


def test_tasks_of_srun_find_the_same_address():
    env = {"SLURM_JOB_ID": "123", "SLURM_STEP_ID": "0", "SLURM_JOB_NODELIST": "n[07-08]"}
    first, last = (rendezvous_from_environment(Place("SLURM", rank, 4, rank % 2, 2), env) for rank in (0, 3))
    assert first == last and first.host == "n07" and not first.opened
    step = rendezvous_from_environment(Place("SLURM", 0, 4, 0, 2), env | {"SLURM_STEP_ID": "1"})
    assert step.port != first.port and all(15000 <= port < 30000 for port in (step.port, first.port))
    subset = rendezvous_from_environment(Place("SLURM", 0, 4, 0, 2), env | {"SLURM_STEP_NODELIST": "n08"})
    assert subset.host == "n08"
    named = rendezvous_from_environment(Place("SLURM", 0, 4, 0, 2), env | {"MASTER_ADDR": "x", "MASTER_PORT": "5"})
    assert (named.host, named.port) == ("x", 5)
    assert rendezvous_from_environment(Place("SLURM", 0, 2, 0, 2), env).host == "127.0.0.1"
    with pytest.raises(ValueError, match="MASTER_ADDR"):
        rendezvous_from_environment(Place("SLURM", 0, 4, 0, 2), {"SLURM_JOB_ID": "1"})


def test_addresses_of_torchrun_and_of_the_flags():
    env = {"MASTER_ADDR": "a", "MASTER_PORT": "29500", "TORCHELASTIC_RESTART_COUNT": "2"}
    place = Place("torchrun", 0, 2, 0, 2)
    assert not rendezvous_from_environment(place, env).opened
    agents = rendezvous_from_environment(place, env | {"TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert agents.opened and agents.attempt == "2"
    with pytest.raises(ValueError, match="MASTER_ADDR and MASTER_PORT"):
        rendezvous_from_environment(place, {})
    assert rendezvous_from_url("tcp://10.0.0.1:29500").host == "10.0.0.1"
    for url in ("10.0.0.1:29500", "tcp://host", "file:///x", "tcp://host:port"):
        with pytest.raises(ValueError, match="--dist-url"):
            rendezvous_from_url(url)


def test_a_port_that_is_taken_is_named_with_the_remedy():
    with socket.create_server(("", 0)) as taken:
        rendezvous = Rendezvous("127.0.0.1", taken.getsockname()[1], opened=False, remedy="choose another one: HERE")
        with pytest.raises(ConnectionError, match=f"Port {rendezvous.port} of .* is taken: choose another one: HERE"):
            open_store(rendezvous, serve=True, limit=2)


def test_a_limit_that_is_no_number_is_refused(monkeypatch):
    assert time_limit() == 30
    for text in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv("DENSEKIT_START_SECONDS", text)
        with pytest.raises(ValueError, match="DENSEKIT_START_SECONDS"):
            time_limit()


def test_restarts_of_torchrun_go_on(monkeypatch):
    train = RunOptions(resume="never", eval_only=False)
    assert continued(train, {}).resume == continued(train, {"TORCHELASTIC_RESTART_COUNT": "0"}).resume == "never"
    again = {"TORCHELASTIC_RESTART_COUNT": "1"}
    assert continued(train, again).resume == "auto" and train.resume == "never"
    assert continued(RunOptions(resume="must", eval_only=False), again).resume == "must"
    assert continued(RunOptions(resume="never", eval_only=True), again).resume == "never"
    assert continued(SimpleNamespace(source="pictures"), again) == SimpleNamespace(source="pictures")
    monkeypatch.delenv("TORCHELASTIC_MAX_RESTARTS", raising=False)
    refuse_ambiguous_restarts("runs/old")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(ValueError, match="runs/old"):
        refuse_ambiguous_restarts("runs/old")


# Processes of this very program: forked, they need not import anything


@pytest.fixture
def impatient(monkeypatch):
    """Makes the waiting of a second or less, for the processes of these tests end in no time."""
    module = sys.modules["densekit.engine.launch.watch"]
    monkeypatch.setattr(module, "_GRACE", 1.0)
    monkeypatch.setattr(module, "_HEARSAY", 0.5)


def forked(work: Callable[[dist.Store, int], None], ranks: range | list[int]) -> dict[int, int]:
    """Runs ``work(store, rank)`` in processes; returns their exit codes."""
    context = multiprocessing.get_context("fork")
    ports = context.SimpleQueue()

    def begin(rank: int) -> None:
        work(dist.TCPStore("127.0.0.1", ports.get(), is_master=False, wait_for_workers=False), rank)

    processes = {rank: context.Process(target=begin, args=(rank,)) for rank in ranks}
    for process in processes.values():
        process.start()
    # Not before they are there: a thread of the store that holds a lock during a fork holds it in the copy for ever.
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for _ in ranks:
        ports.put(server.port)
    for process in processes.values():
        process.join(50)
        assert not process.is_alive()
    return {rank: process.exitcode for rank, process in processes.items()}


def test_a_program_that_is_no_rendezvous_is_named(capfd):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        rendezvous = Rendezvous("127.0.0.1", silent.getsockname()[1], opened=False, remedy="choose another one: HERE")

        def work(store, rank):
            open_store(rendezvous, serve=False, limit=0.5)

        assert forked(work, [1]) == {1: 2}
    assert f"error: 127.0.0.1:{rendezvous.port}, the rendezvous" in (text := capfd.readouterr().err) and "HERE" in text


def test_rank_0_names_who_is_missing(capfd):
    def work(store, rank, limit=2):
        with open(os.devnull, "w") if rank else open(1, "w", closefd=False) as output:
            try:
                call_roll(store, rank, 4, "here:1 (gloo)", limit)
            except ConnectionError as error:
                print(error, file=output)
                sys.exit(3)

    assert forked(work, [0, 2]) == {0: 3, 2: 2}
    text = capfd.readouterr().out
    assert "2 of 4 processes have not come to here:1 (gloo) within 2 s: missing ranks 1, 3." in text
    assert f"rank 2: {socket.gethostname()}, process" in text
    assert forked(work, range(3)) == {0: 3, 1: 2, 2: 2}
    assert forked(partial(work, limit=20), range(4)) == dict.fromkeys(range(4), 0)


def test_without_rank_0_the_others_say_so():
    def work(store, rank):
        with pytest.raises(ConnectionError, match="Rank 0 has not come to here"):
            call_roll(store, rank, 2, "here:1 (gloo)", 0.5)

    assert forked(work, [1]) == {1: 0}


@pytest.mark.parametrize("end", ["error", "kill", "exit", "requeue"])
@pytest.mark.parametrize("who", [0, 1])
def test_the_end_of_one_process_is_the_end_of_all(impatient, end, who):
    def work(store, rank):
        with watched(store, Place("--num-gpus", rank, 3, rank, 3), "127.0.0.1"):
            if rank == who:
                if end == "error":
                    raise RuntimeError("a fault")
                if end == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if end == "exit":
                    os._exit(0)
                sys.exit(REQUEUE)
            time.sleep(60)  # as in a collective call that waits for it

    start = time.monotonic()
    codes = forked(work, range(3))
    assert time.monotonic() - start < 30
    others = {code for rank, code in codes.items() if rank != who}
    assert others == {REQUEUE if end == "requeue" else 1}


def test_processes_that_finish_leave_the_others_alone():
    def work(store, rank):
        with watched(store, Place("--num-gpus", rank, 3, rank, 3), "127.0.0.1"):
            time.sleep(rank == 1)

    assert forked(work, range(3)) == dict.fromkeys(range(3), 0)


def test_an_error_that_follows_from_an_end_takes_its_code(impatient):
    def work(store, rank):
        with watched(store, Place("--num-gpus", rank, 2, rank, 2), "127.0.0.1"):
            if rank == 1:
                sys.exit(REQUEUE)
            time.sleep(0.5)
            raise RuntimeError("Connection closed by peer")

    assert forked(work, range(2)) == {0: REQUEUE, 1: REQUEUE}


def test_the_process_that_says_why_it_ends_gives_the_code(capsys):
    aborted = SimpleNamespace(signal_name="SIGABRT", exit_code=-6)
    assert _exit_code(aborted, "Rank 0", 0, [-6, 2]) == 2
    assert "SIGABRT" not in capsys.readouterr().err
    assert _exit_code(aborted, "Rank 0", 0, [-6, 0]) == 134
    assert "Rank 0 was ended by SIGABRT" in capsys.readouterr().err
