"""Squares of pictures with boxes, and the mapper that makes them."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from densekit.config import load_config
from densekit.d2.structures import BoxMode
from densekit.data.loader import SampleContext, SeededSamples
from densekit.data.mapper import build_mapper, inference_augmentations
from densekit.data.progress import Progress
from densekit.projects.yolov6.augment import (
    Picture,
    Warp,
    WarpRange,
    centred_border,
    coloured,
    letterbox,
    letterboxed,
    mirrored,
    mixup,
    mosaic,
)
from tests.projects.yolov6.test_yolov6 import CONFIG, SMALL, detector, scattered

COLOURS = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250], [250, 250, 20]])  # RGB, one for each class


@pytest.fixture(autouse=True)
def _seed():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def painted(size, boxes, classes=None):
    """A dark picture of (height, width) with a filled rectangle for each box."""
    pixels = np.zeros((*size, 3), np.uint8)
    classes = list(range(len(boxes))) if classes is None else classes
    for box, label in zip(boxes, classes):
        x0, y0, x1, y1 = map(int, box)
        pixels[y0:y1, x0:x1] = COLOURS[label]
    return Picture(pixels, np.array(boxes, np.float64).reshape(-1, 4), np.array(classes, np.int64))


def seen(pixels, label):
    """The box around what has the colour of a class."""
    rows, columns = np.nonzero(np.abs(pixels.astype(int) - COLOURS[label]).max(-1) < 110)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)


def assert_boxes_are_seen(picture, tolerance=1.5):
    for box, label in zip(picture.boxes, picture.classes):
        np.testing.assert_allclose(seen(picture.pixels, label), box, atol=tolerance)


TWO = ([30, 40, 90, 70], [110, 60, 150, 130])


@pytest.mark.parametrize("angle", (-70, -15, 0, 33, 90))
@pytest.mark.parametrize("shear", ((0.0, 0.0), (8.0, -5.0)))
def test_boxes_of_rotated_rectangles_are_those_of_their_pixels(angle, shear):
    warped = Warp(angle, 0.8, shear, (0.45, 0.55))(painted((160, 200), TWO), (220, 240))
    assert warped.classes.tolist() == [0, 1]
    assert_boxes_are_seen(warped)


def test_boxes_are_right_after_every_random_warp_flip_letterbox_and_mosaic():
    """Without rotation; the box of a turned rectangle that the side of the picture cuts is that of its corners."""
    for _ in range(20):
        parts = [letterboxed(painted((90, 120), [[20, 30, 70, 60]], [label]), 128) for label in range(4)]
        centre = random.randint(64, 192), random.randint(64, 192)
        four = mosaic(parts, 128, centre)
        warped = WarpRange(scale=0.3).draw()(four, (128, 128))
        assert_boxes_are_seen(mirrored(mirrored(warped), vertical=True), tolerance=2.5)


def test_warp_drops_boxes_that_left_the_picture():
    warped = Warp(0.0, 1.0, (0.0, 0.0), (-0.1, 0.5))(painted((160, 200), TWO), (160, 200))
    assert warped.classes.tolist() == [1]
    assert_boxes_are_seen(warped)
    gone = Warp(0.0, 1.0, (0.0, 0.0), (9.0, 9.0))(warped, (160, 200))
    assert gone.boxes.shape == (0, 4) and gone.classes.shape == (0,)


def test_mirroring_twice_changes_nothing():
    picture = painted((50, 70), [[3, 4, 20, 30]])
    for vertical in (False, True):
        once = mirrored(picture, vertical=vertical)
        assert_boxes_are_seen(once, tolerance=0)
        twice = mirrored(once, vertical=vertical)
        assert np.array_equal(twice.pixels, picture.pixels) and np.array_equal(twice.boxes, picture.boxes)


def test_letterbox_keeps_the_aspect_ratio_and_fills_with_grey():
    for height, width in ((50, 81), (120, 77), (64, 64), (1, 300)):
        pixels, ratio, border = letterbox(np.zeros((height, width, 3), np.uint8), (96, 64))
        assert pixels.shape == (96, 64, 3)
        inner = pixels[border.top : 96 - border.bottom, border.left : 64 - border.right]
        assert not inner.any() and inner.shape[:2] == (max(1, round(height * ratio)), max(1, round(width * ratio)))
        assert (pixels == 114).sum() == pixels.size - inner.size
    assert centred_border((37, 60), (64, 64), 32) == (2, 2, 13, 14)


def test_mixup_has_the_objects_of_both():
    first, second = painted((40, 40), [[1, 2, 9, 9]]), painted((40, 40), [[20, 20, 30, 35]], [2])
    mixed = mixup(first, second, 0.5)
    assert mixed.classes.tolist() == [0, 2]
    assert np.array_equal(mixed.boxes, np.concatenate([first.boxes, second.boxes]))
    assert np.array_equal(mixup(first, second, 1.0).pixels, first.pixels)


def test_colours_do_not_depend_on_the_order_of_channels():
    pixels = np.random.randint(0, 256, (20, 30, 3), dtype=np.uint8)
    factors = [1.01, 0.5, 1.3]
    turned = coloured(pixels[..., ::-1].copy(), factors, "RGB")[..., ::-1]
    assert np.array_equal(coloured(pixels, factors, "BGR"), turned)


@pytest.fixture
def records(tmp_path):
    """Pictures of several sizes, one of them without objects."""
    made = []
    for number, size in enumerate(((60, 90), (90, 60), (100, 100), (48, 96), (70, 80))):
        boxes = [[10, 12, 40, 40]] if number != 2 else []
        name = str(tmp_path / f"{number}.png")
        Image.fromarray(painted(size, boxes, [number % 4] if boxes else []).pixels).save(name)
        annotations = [{"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": number % 4} for box in boxes]
        annotations.append({"bbox": [0, 0, 48, 48], "bbox_mode": 0, "category_id": 0, "iscrowd": 1})
        made.append({"file_name": name, "height": size[0], "width": size[1], "annotations": annotations})
    return made


def mapper(*options, is_train=True):
    keys = ["INPUT.MAPPER", "YOLOv6Mapper", "INPUT.MIN_SIZE_TRAIN", (96, 128), "INPUT.MAX_SIZE_TEST", 80]
    return build_mapper(load_config(CONFIG, [*SMALL, *keys, *options]), is_train=is_train)


PLAIN = ("INPUT.YOLOV6.PLAIN_EPOCHS", 1.0)


def test_strong_augmentation_ends_before_the_last_epochs(records, monkeypatch):
    made = mapper(*PLAIN, "INPUT.YOLOV6.MIXUP", 1.0)
    read = []
    original = made._pixels
    monkeypatch.setattr(made, "_pixels", lambda record: read.append(record["file_name"]) or original(record))
    for iteration, pictures in ((0, 8), (14, 8), (15, 1), (19, 1)):
        read.clear()
        made.map_training(records[0], SampleContext(records, Progress(iteration, 20, 5.0)))
        assert len(read) == pictures and read[0] == records[0]["file_name"]


@pytest.mark.parametrize("key", ["CACHE_MB", "CACHE_DIR"])
def test_samples_are_the_same_whoever_makes_them_and_have_one_size_in_a_step(records, key, tmp_path):
    """A cache, another process or an earlier sample change nothing."""
    sizes = set()
    folder = tmp_path / "kept"
    kept = {"CACHE_MB": 1.0, "CACHE_DIR": str(folder)}[key]
    cached, fresh = (
        SeededSamples(records, mapper(*PLAIN, "INPUT.YOLOV6.MIXUP", 0.5, *options))
        for options in ((f"INPUT.YOLOV6.{key}", kept), ())
    )
    cached.plan = fresh.plan = Progress(0, 20, 5.0)
    for step in range(20):
        draws = [(index, 7 * step + index, step) for index in (0, 3)]
        batch = [cached[draw] for draw in draws]
        for ours, other in zip(batch, [fresh[draw] for draw in reversed(draws)][::-1]):
            assert torch.equal(ours["image"], other["image"])
            assert torch.equal(ours["instances"].gt_boxes.tensor, other["instances"].gt_boxes.tensor)
            assert torch.equal(ours["instances"].gt_classes, other["instances"].gt_classes)
        assert batch[0]["image"].shape == batch[1]["image"].shape
        sizes.add(tuple(batch[0]["image"].shape))
    assert sizes == {(3, 96, 96), (3, 128, 128)}
    assert (len(cached._mapper._cache) or len(list(folder.iterdir()))) == len(records)


def test_boxes_of_samples_are_those_of_their_pixels(records):
    calm = ("INPUT.YOLOV6.HSV", [0.0, 0.0, 0.0], "INPUT.YOLOV6.SCALE", 0.1, "INPUT.YOLOV6.MOSAIC", 0.0)
    made = mapper(*calm)
    for step in range(12):
        record = records[(0, 1, 3, 4)[step % 4]]
        sample = made.map_training(record, SampleContext(records, Progress(step, 100, 5.0)))
        box, label = sample["instances"].gt_boxes.tensor[0].numpy(), int(sample["instances"].gt_classes[0])
        np.testing.assert_allclose(seen(sample["image"].permute(1, 2, 0).numpy(), label), box, atol=2.5)
        assert "annotations" not in sample and len(sample["instances"]) == 1  # a crowd is none


def test_a_record_alone_is_not_changed_at_random(records):
    made = mapper()
    one, two = made(records[0]), made(records[0])
    assert torch.equal(one["image"], two["image"])
    np.testing.assert_allclose(one["instances"].gt_boxes.tensor[0], np.array([10, 12, 40, 40]) * 128 / 90, atol=0.6)


def test_pictures_without_objects_and_missing_ones(records):
    made = mapper("INPUT.YOLOV6.MOSAIC", 0.0)
    context = SampleContext(records, Progress(0, 100, 5.0))
    assert len(made.map_training(records[2], context)["instances"]) == 0
    with pytest.raises(FileNotFoundError, match="absent"):
        made.map_training(records[0] | {"file_name": "absent.png"}, context)


def test_test_pictures_are_resized_by_their_longer_side(records):
    for record in records:
        image = mapper(is_train=False)(record)["image"]
        ratio = 80 / max(record["height"], record["width"])
        assert image.shape[1:] == (int(record["height"] * ratio), int(record["width"] * ratio))
    keys = [*SMALL, "INPUT.MAPPER", "YOLOv6Mapper", "INPUT.MAX_SIZE_TEST", 80]
    assert "LongSideResize" in str(inference_augmentations(load_config(CONFIG, keys)))


@pytest.mark.parametrize(
    "key, value",
    (("MODEL.MASK_ON", True), ("INPUT.CROP.ENABLED", True), ("INPUT.FORMAT", "L"), ("INPUT.RANDOM_FLIP", "x")),
)
def test_what_the_mapper_cannot_do_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=key):
        mapper(key, value)


def test_frame_puts_pictures_into_the_middle_and_takes_boxes_back():
    """A picture with its grey border already around it gives the same boxes, moved."""
    model = scattered(detector("MODEL.YOLOV6.FRAME_TEST", 128, "MODEL.YOLOV6.SCORE_THRESH_TEST", 0.0)).eval()
    image = torch.randint(0, 256, (3, 60, 100), dtype=torch.uint8)
    whole = torch.full((3, 128, 128), 114, dtype=torch.uint8)
    border = centred_border((60, 100), (128, 128))
    whole[:, border.top : border.top + 60, border.left : border.left + 100] = image
    assert torch.equal(
        model.preprocess_image([{"image": image}]).tensor, model.preprocess_image([{"image": whole}]).tensor
    )
    with torch.no_grad():
        small, large = (model([{"image": x}])[0]["instances"] for x in (image, whole))
    shift = torch.tensor([border.left, border.top] * 2)
    expected = (large.pred_boxes.tensor - shift).clamp(min=0).minimum(torch.tensor([100.0, 60.0] * 2))
    inside = (expected[:, 2:] > expected[:, :2]).all(1)
    assert len(small) and small.image_size == (60, 100)
    torch.testing.assert_close(small.pred_boxes.tensor, expected[inside])
