"""SSD's colour distortions: what may change, how far, and in which order of channels."""

import numpy as np
import pytest

from densekit.config import load_config
from densekit.data.colour import SSDColours
from densekit.data.mapper import CropAfterResizeMapper

GREY = np.full((4, 5, 3), 100, dtype=np.uint8)


def distorted(augmentation, image, seed):
    np.random.seed(seed)
    return augmentation.get_transform(image).apply_image(image)


def test_grey_keeps_no_hue_and_stays_in_the_published_range():
    values = set()
    for seed in range(200):
        picture = distorted(SSDColours("BGR"), GREY, seed)
        assert picture.shape == GREY.shape and picture.dtype == np.uint8
        assert np.ptp(picture) == 0  # saturation and hue do nothing to grey, and no pixel differs from another
        values.add(int(picture[0, 0, 0]))
    assert 100 in values and min(values) >= (100 - 32) // 2 and max(values) <= (100 + 32) * 1.5
    assert min(values) < 60 and max(values) > 140


def test_the_order_of_channels_makes_no_difference():
    image = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    for seed in range(20):
        bgr = distorted(SSDColours("BGR"), image, seed)
        rgb = distorted(SSDColours("RGB"), image[:, :, ::-1], seed)
        np.testing.assert_array_equal(bgr, rgb[:, :, ::-1])


def test_other_formats_are_refused():
    with pytest.raises(ValueError, match=r"INPUT.FORMAT BGR or RGB, not 'L'"):
        SSDColours("L")


def test_the_mapper_reads_the_key():
    cfg = load_config("", ["INPUT.COLOR_AUG_SSD", "True"])
    options = CropAfterResizeMapper.from_config(cfg, is_train=True)
    assert [type(a).__name__ for a in options["augmentations"]] == ["ResizeShortestEdge", "SSDColours", "RandomFlip"]
    options = CropAfterResizeMapper.from_config(cfg, is_train=False)
    assert all(type(a).__name__ != "SSDColours" for a in options["augmentations"])
