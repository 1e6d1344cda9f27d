"""Communication: one process, and two over gloo."""

import importlib
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from densekit.runtime.utils import comm as runtime_comm


@pytest.fixture
def comm():
    """The host's; not imported above, as the spawned processes would import the whole host."""
    return importlib.import_module("densekit.d2.utils.comm")


def test_one_process_needs_no_group(comm):
    assert (comm.get_rank(), comm.get_world_size(), comm.get_local_rank(), comm.get_local_size()) == (0, 1, 0, 1)
    assert comm.is_main_process()
    comm.synchronize()
    assert comm.all_gather("a") == ["a"] == comm.gather("a")
    losses = {"loss": torch.tensor(2.0)}
    assert comm.reduce_dict(losses) == losses


def test_shared_seed_follows_numpys_generator(comm):
    np.random.seed(3)
    first = comm.shared_random_seed()
    np.random.seed(3)
    assert comm.shared_random_seed() == first
    assert comm.shared_random_seed() != first


def worker(rank: int, folder: str, per_machine: int, results) -> None:
    torch.set_num_threads(1)
    # A second group after the first was destroyed. Older torch can hang when it takes down a gloo group (2.6 does).
    for attempt in range(2 if torch.__version__ >= (2, 8) else 1):
        dist.init_process_group("gloo", init_method=f"file://{folder}/{attempt}", rank=rank, world_size=2)
        if attempt == 0:
            with pytest.raises(RuntimeError, match="launch"):
                runtime_comm.get_local_rank()
        runtime_comm.create_local_process_group(per_machine)
        np.random.seed(rank)
        found = {
            "rank": runtime_comm.get_rank(),
            "size": runtime_comm.get_world_size(),
            "local": (runtime_comm.get_local_rank(), runtime_comm.get_local_size()),
            "main": runtime_comm.is_main_process(),
            "all": runtime_comm.all_gather({"rank": rank, "values": list(range(rank * 1000))}),
            "to_0": runtime_comm.gather(rank),
            "to_1": runtime_comm.gather(rank, dst=1),
            "seed": runtime_comm.shared_random_seed(),
        }
        losses = {"b": torch.tensor(10.0 * rank), "a": torch.tensor(float(rank), requires_grad=True)}
        losses = losses if rank == 0 else dict(reversed(losses.items()))
        found["mean"] = {name: value.item() for name, value in runtime_comm.reduce_dict(losses).items()}
        found["sum"] = {name: value.item() for name, value in runtime_comm.reduce_dict(losses, average=False).items()}
        runtime_comm.synchronize()
        if torch.__version__ >= (2, 8):
            dist.destroy_process_group()
    results.put((rank, found))


@pytest.mark.parametrize(("per_machine", "local"), [(2, [(0, 2), (1, 2)]), (1, [(0, 1), (0, 1)])])
def test_two_processes(per_machine, local, tmp_path):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    mp.spawn(worker, args=(str(tmp_path), per_machine, results), nprocs=2)
    found = dict(results.get() for _ in range(2))
    for rank in (0, 1):
        mine = found[rank]
        assert (mine["rank"], mine["size"], mine["local"], mine["main"]) == (rank, 2, local[rank], rank == 0)
        assert [len(item["values"]) for item in mine["all"]] == [0, 1000]
        assert mine["seed"] == np.random.RandomState(0).randint(2**31)
    assert (found[0]["to_0"], found[1]["to_0"]) == ([0, 1], [])
    assert (found[0]["to_1"], found[1]["to_1"]) == ([], [0, 1])
    assert found[0]["mean"] == {"a": 0.5, "b": 5.0}
    assert found[0]["sum"] == {"a": 1.0, "b": 10.0}


def test_machines_of_unequal_size_are_refused():
    with pytest.raises(ValueError, match="1 processes do not divide into machines of 2"):
        runtime_comm.create_local_process_group(2)
