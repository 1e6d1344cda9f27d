"""The order of training images and the loader that follows it."""

import os
import random
import signal
from collections import Counter
from itertools import chain, islice

import numpy as np
import pytest
import torch

from densekit.data.loader import SeededSamples, _wide, prepare_worker, start_workers
from densekit.data.order import TrainingOrder


def order(size=10, batch=4, seed=7, **options) -> TrainingOrder:
    return TrainingOrder(lambda generator: torch.arange(size), batch, seed, **options)


def take(batches, count):
    return list(islice(batches, count))


def test_each_epoch_shows_every_image_once_in_another_order():
    draws = list(chain.from_iterable(take(order(size=12), 6)))
    epochs = [[index for index, _, _ in draws[at : at + 12]] for at in (0, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert len({seed for _, seed, _ in draws}) == 24


@pytest.mark.parametrize("wide", [None, [index % 3 == 0 for index in range(10)]])
def test_a_later_start_gives_the_same_batches(wide):
    whole = take(order(wide=wide), 9)
    late = order(wide=wide)
    late.start = 5
    assert take(late, 4) == whole[5:]
    assert take(order(wide=wide, seed=8), 9) != whole


def test_processes_share_the_batches_of_one():
    for world in (1, 2, 4):
        shares = [take(order(rank=rank, world_size=world), 5) for rank in range(world)]
        joint = [list(chain.from_iterable(parts)) for parts in zip(*shares)]
        assert joint == take(order(), 5)


def test_groups_do_not_mix_and_lose_no_image():
    wide = [index % 3 == 0 for index in range(10)]
    batches = take(order(wide=wide), 50)
    assert all(len({wide[index] for index, _, _ in batch}) == 1 for batch in batches)
    counts = Counter(index for batch in batches for index, _, _ in batch)
    assert max(counts.values()) - min(counts.values()) <= 2


def test_images_are_grouped_where_all_records_tell_their_size():
    records = [{"width": 4, "height": 3}, {"width": 3, "height": 4}]
    assert _wide(records) == [True, False]
    assert _wide([*records, {"file_name": "panoptic.png"}]) is None


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"IMS_PER_BATCH is 4.*number of processes, 3"):
        order(world_size=3)


def test_a_sample_depends_on_its_draw_alone_and_leaves_no_trace():
    def mapper(record):
        return record, random.random(), np.random.rand(), torch.rand(1).item()

    samples = SeededSamples(["a", "b"], mapper)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    first = samples[0, 5, 0]
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    random.random()
    assert samples[0, 5, 0] == first
    assert samples[0, 6, 0] != first and samples[1, 5, 0][1:] == first[1:]


def test_a_refused_image_is_replaced_by_one_that_is_not():
    samples = SeededSamples([0, 1, 2], lambda record: record if record == 2 else None)
    assert [samples[index, 3, 0] for index in range(3)] == [2, 2, 2]
    with pytest.raises(ValueError, match=r"INPUT\.MAPPER"):
        SeededSamples([0], lambda record: None)[0, 1, 0]


def test_loaders_outlive_a_signal_to_the_whole_job():
    numbers = torch.utils.data.TensorDataset(torch.arange(40))
    batches = start_workers(torch.utils.data.DataLoader(numbers, num_workers=1, worker_init_fn=prepare_worker))
    worker = batches._workers[0]
    for number in (signal.SIGTERM, signal.SIGUSR1):  # as soon as it is started: both wait until it is prepared
        os.kill(worker.pid, number)
    assert [int(batch) for (batch,) in take(batches, 20)] == list(range(20))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
