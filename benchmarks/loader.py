"""Training images per second of densekit's mapper and of the host's own, on the same records, in one process.

The two take turns. The processor time of each is measured too, which other programs on the machine disturb less. With
workers whole loaders run, one after the other in turns; they get their images in the same order. Without Detectron2 the
host's mapper is the built-in runtime's, which reads and resizes through Pillow as Detectron2's does. Example::

    DENSEKIT_HOST=detectron2 python benchmarks/loader.py --data coco_mini.yaml --name coco_mini_train --workers 0 2
"""

import argparse
import itertools
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tabulate import tabulate
from torch.utils.data import DataLoader

from densekit.config import load_config
from densekit.d2 import HOST
from densekit.d2.data import DatasetFromList, get_detection_dataset_dicts
from densekit.d2.data import DatasetMapper as HostMapper
from densekit.data.loader import SeededSamples, prepare_worker
from densekit.data.mapper import DatasetMapper
from densekit.data.order import TrainingOrder
from densekit.data.own.catalog import register_entries

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "COCO-InstanceSegmentation" / "mask_rcnn_R_50_FPN_1x.yaml"

Timed = Callable[[], tuple[float, float]]  # images per second by the wall clock, and per second of processor time


def alone(mapper: Callable[..., Any], records: list[dict[str, Any]], images: int) -> Timed:
    """Maps records in this process."""

    def run() -> tuple[float, float]:
        random.seed(0)
        np.random.seed(0)
        wall, processor = time.perf_counter(), time.process_time()
        for record in itertools.islice(itertools.cycle(records), images):
            mapper(record)
        return images / (time.perf_counter() - wall), images / (time.process_time() - processor)

    return run


def with_workers(mapper: Callable[..., Any], records: list[dict[str, Any]], images: int, workers: int) -> Timed:
    """Takes batches of two from a loader whose workers have started; they wait while the other loader's work."""
    order = TrainingOrder(lambda generator: torch.arange(len(records)), 2, seed=1)
    samples = SeededSamples(DatasetFromList(records, copy=False), mapper)
    loader = DataLoader(
        samples, batch_sampler=order, num_workers=workers, collate_fn=list, worker_init_fn=prepare_worker
    )
    batches = iter(loader)
    take(batches, 4 * workers)

    def run() -> tuple[float, float]:
        take(batches, 2 * workers)  # those that were loaded while nobody counted
        began = time.perf_counter()
        take(batches, images // 2)
        return images / (time.perf_counter() - began), float("nan")

    return run


def take(batches: Iterator[Any], count: int) -> None:
    for _ in range(count):
        next(batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="YAML of own data sets")
    parser.add_argument("--name", required=True, help="one of them")
    parser.add_argument("--config-file", default=str(CONFIG))
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--images", type=int, default=160, help="in a round")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    register_entries(args.data)
    cfg = load_config(args.config_file)
    records: Any = get_detection_dataset_dicts([args.name])
    kinds = {"densekit": DatasetMapper(cfg, True), "host": HostMapper(cfg, True)}
    rows = []
    for workers in args.workers:
        runs = {
            name: with_workers(mapper, records, args.images, workers)
            if workers
            else alone(mapper, records, args.images)
            for name, mapper in kinds.items()
        }
        rows.append([workers, *compare(runs, args.rounds)])
    name = "Detectron2" if HOST == "detectron2" else "the runtime (Detectron2 is not installed)"
    print(f"{len(records)} images, {os.cpu_count()} cores; medians of {args.rounds} rounds. The host is {name}.")
    print(tabulate(rows, ["workers", "densekit, images/s", "host, images/s", "ratio", "ratio of processor time"]))


def compare(runs: dict[str, Timed], rounds: int) -> list[str]:
    """One row: medians of both, and of the ratios of neighbouring rounds."""
    for run in runs.values():
        run()
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs) if number % 2 else reversed(list(runs)):
            rates[name].append(runs[name]())
    ours, hosts = rates["densekit"], rates["host"]
    ratios = [statistics.median(one[clock] / other[clock] for one, other in zip(ours, hosts)) for clock in (0, 1)]
    images = [f"{statistics.median(wall for wall, _ in rate):.1f}" for rate in (ours, hosts)]
    return [*images, *("" if ratio != ratio else f"{ratio:.2f}" for ratio in ratios)]


if __name__ == "__main__":
    main()
