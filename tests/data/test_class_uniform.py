"""Class-uniform sampling: the classes of an epoch, its stream over processes and restarts, and what it refuses."""

from collections import Counter
from itertools import chain, islice

import numpy as np
import pytest
import torch
from PIL import Image

from densekit.config_defaults import default_config
from densekit.data.order import TrainingOrder
from densekit.data.samplers import ExtendedRecords, build_sampling

SHOWN = [{0}] * 14 + [{0, 1}] * 5 + [{2, 5}]  # 20 images


def config(share=0.5):
    cfg = default_config()
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.CLASS_UNIFORM_SHARE = "ClassUniformTrainingSampler", share
    cfg.INPUT.MAPPER, cfg.INPUT.CROP.ENABLED = "CropAfterResizeMapper", True
    return cfg


@pytest.fixture
def records(tmp_path):
    """Label maps with the classes of SHOWN in stripes, and one of ignored pixels."""
    made = []
    for number, classes in enumerate(SHOWN):
        labels = np.full((16, 32), 255, np.uint8)
        for stripe, name in enumerate(sorted(classes)):
            labels[:, 8 * stripe : 8 * stripe + 8] = name
        path = tmp_path / f"{number}.png"
        Image.fromarray(labels).save(path)
        made.append({"file_name": str(path), "sem_seg_file_name": str(path), "height": 16, "width": 32})
    return made


def test_classes_take_turns_and_images_show_them(records):
    sampling = build_sampling(config(0.5), records)
    extended, generator = ExtendedRecords(records, sampling.additions), torch.Generator().manual_seed(0)
    totals, images = Counter(), Counter()
    for _ in range(100):
        numbers = sampling.epoch(generator).tolist()
        assert len(numbers) == len(records)
        drawn = [extended[number] for number in numbers]
        asked = Counter(sample["crop_class"] for sample in drawn if "crop_class" in sample)
        assert sum(asked.values()) == 10 and max(asked.values()) - min(asked[name] for name in (0, 1, 2, 5)) <= 1
        plain = [number for number in numbers if number < len(records)]
        assert len(set(plain)) == len(plain) == 10
        for number in numbers:
            if number >= len(records):
                assert extended[number]["crop_class"] in SHOWN[number % len(records)]
                images[number % len(records), extended[number]["crop_class"]] += 1
        totals += asked
    # 1000 draws in turns: 250 of each class; which classes come once more in an epoch is drawn, 100 epochs of 1 in 2.
    assert all(abs(count - 250) <= 4 * 5 for count in totals.values())
    of_one = [images[k, 1] for k in range(14, 19)]  # the five images of class 1 share its draws
    assert sum(of_one) == totals[1] and max(abs(count - totals[1] / 5) for count in of_one) < 4 * (50 * 0.8) ** 0.5


def test_all_of_an_epoch_may_be_around_classes(records):
    numbers = build_sampling(config(1.0), records).epoch(torch.Generator().manual_seed(3))
    assert (numbers >= len(records)).all()


def test_the_stream_is_one_for_any_number_of_processes_and_after_a_restart(records):
    def order(rank=0, world_size=1, start=0):
        made = TrainingOrder(build_sampling(config(), records).epoch, 6, 5, rank=rank, world_size=world_size)
        made.start = start
        return list(islice(made, 9 - start))  # 54 draws: over two epochs of 20

    whole = order()
    assert len({tuple(batch) for batch in whole}) == 9
    for count in (2, 3):
        shares = [order(rank, count) for rank in range(count)]
        assert [list(chain.from_iterable(parts)) for parts in zip(*shares)] == whole
    assert order(start=5) == whole[5:]


def test_what_cannot_be_drawn_is_refused(records):
    with pytest.raises(ValueError, match="CLASS_UNIFORM_SHARE"):
        build_sampling(config(1.5), records)
    with pytest.raises(ValueError, match="no label map"):
        build_sampling(config(), [{"file_name": "a.png", "annotations": []}])
    cfg = config()
    cfg.INPUT.MAPPER = ""
    with pytest.raises(ValueError, match=r"INPUT\.MAPPER"):
        build_sampling(cfg, records)
    cfg.DATALOADER.SAMPLER_TRAIN = "Nonesuch"
    with pytest.raises(ValueError, match=r"Nonesuch.*ClassUniformTrainingSampler"):
        build_sampling(cfg, records)
