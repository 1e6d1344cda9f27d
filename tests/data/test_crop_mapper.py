"""The mapper that crops after it has resized."""

import numpy as np
import pytest
from PIL import Image

from densekit.config_defaults import add_densekit_config
from densekit.d2.config import get_cfg
from densekit.data.mapper import MAPPERS


def mapper(is_train=True, **crop):
    cfg = get_cfg()
    add_densekit_config(cfg)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = (80, 160), 60, 1000
    cfg.INPUT.CROP.ENABLED = True
    for key, value in {"TYPE": "absolute", "SIZE": [48, 64], **crop}.items():
        cfg.INPUT.CROP[key] = value
    return MAPPERS.get("CropAfterResizeMapper")(cfg, is_train)


@pytest.fixture
def record(tmp_path):
    """A picture of its own column numbers, a quarter of it void; its labels are the columns' numbers divided by 20."""
    columns = np.broadcast_to(np.arange(100, dtype=np.uint8), (80, 100))
    labels = columns // 20
    labels[:, 75:] = 255
    Image.fromarray(np.repeat(columns[..., None], 3, axis=2)).save(tmp_path / "x.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    return {"file_name": str(tmp_path / "x.png"), "sem_seg_file_name": str(tmp_path / "labels.png")}


def test_crops_have_one_size_at_every_scale(record):
    scales = set()
    for _ in range(12):
        made = mapper()(record)
        image, labels = made["image"][0].numpy(), made["sem_seg"].numpy()
        assert image.shape == labels.shape == (48, 64)
        # Columns that were doubled have half the slope.
        slope = np.abs(np.diff(image.astype(float), axis=1)).mean()
        scales.add(round(slope * 2))
        inside = (image % 20 > 2) & (image % 20 < 18) & (image < 72)
        assert np.array_equal(labels[inside], image[inside] // 20)  # labels moved with the picture
    assert scales == {1, 2}


def test_inference_is_not_cropped(record):
    made = mapper(is_train=False)(record)
    assert made["image"].shape == (3, 60, 75) and "sem_seg" not in made


def test_no_class_fills_a_crop(record):
    """Crops of 40 columns of 100 hold two or three bands of 20, of which one is sometimes void."""
    limited = mapper(SIZE=[40, 40], SINGLE_CATEGORY_MAX_AREA=0.75)
    free, largest = mapper(SIZE=[40, 40]), {}
    for name, make in (("limited", limited), ("free", free)):
        shares = []
        for _ in range(60):
            labels = make(record)["sem_seg"].numpy()
            counts = np.bincount(labels[labels != 255], minlength=1)
            shares.append(counts.max() / counts.sum() if counts.sum() else 1.0)
        largest[name] = np.array(shares)
    assert (largest["limited"] < 0.75).mean() > 0.95  # the tenth draw is taken as it comes
    assert (largest["free"] >= 0.75).mean() > 0.15


def test_without_a_crop_it_is_the_default_mapper(record):
    made = mapper(ENABLED=False)(record)
    assert made["image"].shape[1] in (80, 160)
