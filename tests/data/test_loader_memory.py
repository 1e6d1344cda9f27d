"""The processes of a loader share one copy of the data set."""

import gc
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from densekit.d2.data import DatasetFromList
from densekit.data.loader import SeededSamples, prepare_worker, start_workers
from densekit.data.order import TrainingOrder

RECORDS = 5000
_SMAPS = Path("/proc/self/smaps_rollup")


def record(number: int) -> dict:
    polygons = [[float(number * k + j) for j in range(60)] for k in range(4)]
    objects = [
        {"bbox": [1.0, 2.0, 3.0, float(number)], "category_id": k, "segmentation": [polygons[k]]} for k in (1, 2)
    ]
    return {"file_name": f"{number}.jpg", "height": 480, "width": 640, "annotations": objects}


def private_memory(sample: dict) -> dict:
    """A mapper: copies the record, as real ones do; at every 200th the bytes that the process shares with no other."""
    sample = pickle.loads(pickle.dumps(sample))
    number = int(sample["file_name"].split(".")[0])
    if number % 200 != 0:
        return {}
    lines = [line.split() for line in _SMAPS.read_text().splitlines()]
    return {"private": sum(1024 * int(words[1]) for words in lines if words[0].startswith("Private"))}


def growth(records) -> int:
    """How much the private memory of two workers grows while each of them reads every second record."""
    order = TrainingOrder(lambda generator: torch.arange(len(records)), 40, seed=1)
    samples = SeededSamples(records, private_memory)
    loader = DataLoader(samples, batch_sampler=order, num_workers=2, collate_fn=list, worker_init_fn=prepare_worker)
    batches = start_workers(loader)
    sizes = [sample["private"] for _ in range(len(records) // 40) for sample in next(batches) if sample]
    return max(sizes[-8:]) - min(sizes[:8])


@pytest.mark.skipif(not _SMAPS.is_file() or sys.platform != "linux", reason="needs Linux's account of private memory")
def test_private_memory_of_workers_does_not_grow():
    plain = [record(number) for number in range(RECORDS)]
    packed = DatasetFromList(plain, copy=False)
    copied = growth(plain)
    del plain
    gc.collect()
    shared = growth(packed)
    assert shared < 5e6 < 8e6 < copied  # reading a plain list copies its pages into each process
