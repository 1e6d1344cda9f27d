"""Class-balanced sampling: the classes of what is drawn, as the formulas say."""

import math
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from densekit.config_defaults import default_config
from densekit.data.balance import class_aware_weights, repeat_factors, shown_classes
from densekit.data.order import TrainingOrder
from densekit.data.samplers import build_sampling

# 90 images of cats, 9 of cats and dogs, 1 of a bird; 5 of nothing.
SHOWN = [{0}] * 90 + [{0, 1}] * 9 + [{2}] + [set()] * 5


def instances(shown=SHOWN) -> list[dict]:
    return [{"annotations": [{"category_id": c} for c in classes for _ in range(2)]} for classes in shown]


def draws(kind: str, records: list[dict], *, epochs: int = 1, seed: int = 0) -> list[int]:
    cfg = default_config()
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD = kind, 0.5
    epoch, generator = build_sampling(cfg, records).epoch, torch.Generator().manual_seed(seed)
    return torch.cat([epoch(generator) for _ in range(epochs)]).tolist()


def frequencies(indices: list[int]) -> dict[int, float]:
    counts = Counter(c for index in indices for c in SHOWN[index])
    return {c: count / len(indices) for c, count in counts.items()}


def test_every_class_is_drawn_as_often_when_classes_are_drawn_first():
    drawn = draws("ClassAwareTrainingSampler", instances(), epochs=200)
    assert len(drawn) == 200 * len(SHOWN)
    found = frequencies(drawn)
    # A dog's picture shows a cat as well, so cats come along with them: 1/3 + 1/3; and by themselves dogs come with
    # the share 9 / 99 of the cats' third.
    expected = {0: 2 / 3, 1: 1 / 3 + 1 / 3 * 9 / 99, 2: 1 / 3}
    deviation = 4 * math.sqrt(0.25 / len(drawn))
    assert found == {c: pytest.approx(value, abs=deviation) for c, value in expected.items()}
    assert max(drawn) < 100  # what shows nothing is not drawn


def test_weights_are_the_probabilities_of_class_then_image():
    weights = class_aware_weights(instances())
    assert weights.sum().item() == pytest.approx(1)
    generator = np.random.default_rng(0)
    of_class = {c: [k for k, classes in enumerate(SHOWN) if c in classes] for c in range(3)}
    simulated = np.bincount([generator.choice(of_class[generator.integers(3)]) for _ in range(30000)], minlength=105)
    groups = [slice(0, 90), slice(90, 99), slice(99, 100), slice(100, 105)]
    for group in groups:
        assert weights[group].sum().item() == pytest.approx(simulated[group].sum() / 30000, abs=0.012)


def test_repeats_follow_the_paper():
    records = instances()
    factors = repeat_factors(records, 0.5, sqrt=True)
    # Of 105 images 99 show a cat, 9 a dog and 1 a bird; an image is repeated for the rarest of its classes.
    expected = [1.0] * 90 + [math.sqrt(0.5 * 105 / 9)] * 9 + [math.sqrt(0.5 * 105)] + [1.0] * 5
    assert factors.tolist() == pytest.approx(expected)
    found = Counter(draws("RepeatFactorTrainingSampler", records, epochs=50))
    assert found[99] / 50 == pytest.approx(math.sqrt(0.5 * 105), abs=0.3)


def test_a_stream_is_drawn_from_its_seed_alone():
    records = instances()
    assert draws("ClassAwareTrainingSampler", records, seed=5) == draws("ClassAwareTrainingSampler", records, seed=5)
    assert draws("ClassAwareTrainingSampler", records, seed=5) != draws("ClassAwareTrainingSampler", records, seed=6)


def test_a_subset_goes_with_the_seed_that_a_resumed_run_takes_over():
    cfg = default_config()
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.RANDOM_SUBSET_RATIO = "RandomSubsetTrainingSampler", 0.2

    def batches(order: TrainingOrder, count: int) -> list:
        return list(islice(order, count))

    first, resumed = (TrainingOrder(build_sampling(cfg, instances()).epoch, 7, seed) for seed in (1, 2))
    began = batches(first, 6)  # two epochs of 21 images
    assert batches(resumed, 6) != began
    resumed.seed, resumed.start = 1, 2
    assert batches(resumed, 4) == began[2:]
    shown = Counter(draw[0] for batch in began for draw in batch)
    assert len(shown) == 21 and set(shown.values()) == {2}


def test_segments_and_label_maps_show_classes_too(tmp_path):
    labels = np.full((16, 24), 255, np.uint8)
    labels[:8], labels[8:, :12] = 3, 7
    Image.fromarray(labels).save(tmp_path / "labels.png")
    Image.new("RGB", (24, 16)).save(tmp_path / "image.jpg")
    semantic = {"file_name": str(tmp_path / "image.jpg"), "sem_seg_file_name": str(tmp_path / "labels.png")}
    semantic |= {"height": 16, "width": 24}
    panoptic = {"segments_info": [{"category_id": 1, "isthing": True}, {"category_id": 1, "isthing": False}]}
    crowd = {"annotations": [{"category_id": 4, "iscrowd": 1}, {"category_id": 5}]}
    assert shown_classes([semantic])[0] == {3, 7}
    assert len(shown_classes([panoptic])[0]) == 2
    assert len(shown_classes([crowd])[0]) == 1
    weights = class_aware_weights([semantic, semantic, panoptic])
    torch.testing.assert_close(weights, torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64))
    factors = repeat_factors([semantic] * 3 + [panoptic], 0.5, sqrt=True)
    torch.testing.assert_close(factors, torch.tensor([1.0, 1.0, 1.0, math.sqrt(2)]))


def test_what_cannot_be_balanced_is_named():
    with pytest.raises(ValueError, match=r"a\.jpg has no annotations"):
        class_aware_weights([{"file_name": "a.jpg"}])
    with pytest.raises(ValueError, match="no training image shows any class"):
        class_aware_weights(instances([set()]))
    with pytest.raises(ValueError, match=r"not one of .*ClassAwareTrainingSampler"):
        draws("Fair", instances())
