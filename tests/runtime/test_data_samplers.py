"""Samplers: exact cover, the same stream on all ranks, and repeat factors of a case computed by hand."""

import itertools
from collections import Counter

import pytest
import torch

from densekit.d2.data import samplers as S
from densekit.d2.utils import comm


def as_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)
    # The samplers read the functions through their host's module.
    host = S.TrainingSampler.__module__.split(".data.")[0]
    module = __import__(f"{host}.utils.comm", fromlist=["comm"])
    monkeypatch.setattr(module, "get_rank", lambda: rank)
    monkeypatch.setattr(module, "get_world_size", lambda: world_size)


@pytest.mark.parametrize("world_size", range(1, 6))
@pytest.mark.parametrize("size", [1, 4, 10, 13])
def test_inference_covers_every_index_once(monkeypatch, world_size, size):
    shares = []
    for rank in range(world_size):
        as_rank(monkeypatch, rank, world_size)
        sampler = S.InferenceSampler(size)
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1])
    assert sorted(itertools.chain.from_iterable(shares)) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_training_ranks_share_one_stream(monkeypatch):
    as_rank(monkeypatch, 0, 1)
    whole = list(itertools.islice(S.TrainingSampler(10, seed=3), 40))
    for start in range(0, 40, 10):
        assert sorted(whole[start : start + 10]) == list(range(10))
    assert whole[:10] != whole[10:20]
    for rank in range(3):
        as_rank(monkeypatch, rank, 3)
        assert list(itertools.islice(S.TrainingSampler(10, seed=3), 13)) == whole[rank::3][:13]


def test_training_without_shuffle_is_in_order():
    assert list(itertools.islice(S.TrainingSampler(3, shuffle=False), 7)) == [0, 1, 2, 0, 1, 2, 0]


def records(*categories):
    return [{"annotations": [{"category_id": c} for c in image]} for image in categories]


def test_repeat_factors_by_hand():
    # Category 0 is in all four images, 1 in one of them, 2 in two; the threshold is 1.
    images = records([0, 0], [0, 1], [0, 2], [0, 2, 2])
    factors = S.RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    torch.testing.assert_close(factors(images, 1.0), torch.tensor([1.0, 2.0, 2**0.5, 2**0.5]))
    torch.testing.assert_close(factors(images, 1.0, sqrt=False), torch.tensor([1.0, 4.0, 2.0, 2.0]))
    torch.testing.assert_close(factors(records([], [5]), 0.1), torch.tensor([1.0, 1.0]))


def test_repeats_meet_their_factors():
    sampler = S.RepeatFactorTrainingSampler(torch.tensor([1.0, 2.0, 1.5]), seed=0)
    counts = Counter(itertools.islice(sampler, 9000))
    assert abs(counts[1] / counts[0] - 2) < 0.1 and abs(counts[2] / counts[0] - 1.5) < 0.1


def test_random_subset_is_fixed():
    from densekit.runtime.data.samplers import RandomSubsetTrainingSampler

    drawn = set(itertools.islice(RandomSubsetTrainingSampler(100, 0.2, seed_subset=1), 200))
    assert len(drawn) == 20
    other = set(itertools.islice(RandomSubsetTrainingSampler(100, 0.2, seed_subset=2), 200))
    assert drawn != other
    with pytest.raises(ValueError, match=r"subset_ratio=0\.001"):
        RandomSubsetTrainingSampler(100, 0.001)


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_sizes_are_checked(size):
    with pytest.raises((ValueError, TypeError, AssertionError)):
        S.TrainingSampler(size)
