"""Training images are read and resized the fast way with the host's pixels; evaluation has exactly those."""

import copy
import random

import numpy as np
import pytest
import torch
from PIL import Image

from densekit.d2.config import get_cfg
from densekit.d2.data import DatasetMapper as HostMapper
from densekit.d2.data import detection_utils as utils
from densekit.d2.data import transforms as T
from densekit.d2.structures import BoxMode
from densekit.data.mapper import DatasetMapper
from densekit.data.training_images import TrainingInput, read_training_image, resize


def picture(height: int = 61, width: int = 83) -> np.ndarray:
    """Noise over waves: (H, W, 3) uint8, no two channels alike."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / 9), np.cos(columns / 7), np.sin((rows + columns) / 5)], axis=2) * 90 + 120
    return (waves + np.random.default_rng(1).normal(0, 12, waves.shape)).clip(0, 255).astype(np.uint8)


def differences(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    assert one.shape == other.shape and one.dtype == other.dtype == np.uint8
    return np.abs(one.astype(int) - other)


@pytest.mark.parametrize("format", ["BGR", "RGB"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}], ids=str)
def test_photographs_have_the_hosts_pixels(tmp_path, monkeypatch, format, options):
    path = str(tmp_path / "photo.jpg")
    Image.fromarray(picture()).save(path, **options)
    expected = utils.read_image(path, format)
    monkeypatch.setattr(utils, "read_image", lambda *_, **__: pytest.fail("the slow way"))
    # Bit-equal where both libraries hold the same libjpeg; another version may round another way.
    assert differences(read_training_image(path, format), expected).mean() < 0.5


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


COLOUR = Image.fromarray(picture())
OTHERS = {
    "grey.jpg": (COLOUR.convert("L"), {}),
    "cmyk.jpg": (COLOUR.convert("CMYK"), {}),
    "palette.png": (COLOUR.convert("P"), {}),
    "alpha.png": (COLOUR.convert("RGBA"), {}),
    "sixteen.png": (Image.fromarray(picture()[..., 0].astype(np.uint16) * 200), {}),
    "colour.png": (COLOUR, {}),
    "turned.jpg": (COLOUR, {"exif": exif(6)}),
    "mirrored.jpg": (COLOUR, {"exif": exif(2)}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_left_to_the_host(tmp_path, name):
    image, options = OTHERS[name]
    path = str(tmp_path / name)
    image.save(path, **options)
    expected = utils.read_image(path, "BGR")
    if name == "sixteen.png":  # which Detectron2 cuts off at 255
        expected = np.repeat((picture()[..., :1].astype(int) * 200 // 257).astype(np.uint8), 3, axis=2)
    assert np.array_equal(read_training_image(path, "BGR"), expected)


def test_what_follows_the_picture_does_no_harm(tmp_path):
    path = tmp_path / "photo.jpg"
    COLOUR.save(path)
    path.write_bytes(path.read_bytes() + b"\0more\0")
    assert np.array_equal(read_training_image(str(path), "BGR"), utils.read_image(str(path), "BGR"))


def test_a_photograph_that_breaks_off_is_refused(tmp_path):
    path = tmp_path / "photo.jpg"
    COLOUR.save(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(OSError):
        read_training_image(str(path), "BGR")
    with pytest.raises(ValueError, match=r"photo\.jpg"):
        mappers(True)[0]({"file_name": str(path), "image_id": 1})


@pytest.mark.parametrize("size", [(61, 83), (122, 166), (100, 137), (200, 84), (30, 41), (17, 83), (61, 20), (120, 40)])
def test_resizing_is_pillows(size):
    image = picture()
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    found = differences(resize(image, *size), expected)
    assert found.max() <= 1
    assert found.mean() < (0.35 if size[0] >= 61 and size[1] >= 83 else 0.01)  # torch's is closer than OpenCV's


def test_what_has_no_fast_way_is_the_hosts():
    image, labels = picture(), picture()[..., 0] // 100
    steps = [T.ResizeTransform(61, 83, 40, 50, Image.Resampling.NEAREST), T.VFlipTransform(40), T.HFlipTransform(50)]
    for inputs in (image, image[..., :1], image / 255.0):
        ours, hosts = (kind(inputs, sem_seg=labels) for kind in (TrainingInput, T.AugInput))
        for step in steps:
            ours.transform(step)
            hosts.transform(step)
        assert np.array_equal(ours.image, hosts.image) and np.array_equal(ours.sem_seg, hosts.sem_seg)


def mappers(is_train: bool, **input_keys) -> list:
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (40, 80, 120), 200, 90
    for key, value in input_keys.items():
        cfg.INPUT[key] = value
    return [kind(cfg, is_train) for kind in (DatasetMapper, HostMapper)]


def record(folder) -> dict:
    path = folder / "photo.jpg"
    Image.fromarray(picture()).save(path)
    shapes = [[[5.0, 6.0, 50.0, 7.0, 40.0, 44.0]], [[60.0, 10.0, 80.0, 10.0, 80.0, 30.0, 60.0, 30.0]]]
    boxes = [[5.0, 6.0, 45.0, 38.0], [60.0, 10.0, 20.0, 20.0]]
    objects = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "segmentation": shape, "category_id": number, "iscrowd": 0}
        for number, (box, shape) in enumerate(zip(boxes, shapes))
    ]
    objects.append(copy.deepcopy(objects[0]) | {"iscrowd": 1})
    return {"file_name": str(path), "image_id": 7, "height": 61, "width": 83, "annotations": objects}


@pytest.mark.parametrize("keys", [{}, {"MASK_FORMAT": "bitmask"}], ids=["polygon", "bitmask"])
@pytest.mark.parametrize("seed", range(6))
def test_training_samples_are_the_hosts(tmp_path, keys, seed):
    given = record(tmp_path)
    before = copy.deepcopy(given)
    samples = []
    for mapper in mappers(True, **keys):
        np.random.seed(seed)
        random.seed(seed)
        samples.append(mapper(given))
    assert given == before
    ours, hosts = samples
    assert set(ours) == set(hosts)
    assert (ours["image"].int() - hosts["image"].int()).abs().max() <= 1
    assert ours["image"].is_contiguous()
    ours, hosts = ours["instances"], hosts["instances"]
    assert len(ours) == 2 and ours.image_size == hosts.image_size
    assert torch.equal(ours.gt_boxes.tensor, hosts.gt_boxes.tensor) and torch.equal(ours.gt_classes, hosts.gt_classes)
    assert torch.equal(*(one.gt_masks.crop_and_resize(one.gt_boxes.tensor, 14) for one in (ours, hosts)))


def test_evaluation_has_exactly_the_hosts_pixels(tmp_path):
    ours, hosts = (mapper(record(tmp_path)) for mapper in mappers(False))
    assert ours.keys() == hosts.keys() and torch.equal(ours["image"], hosts["image"])
