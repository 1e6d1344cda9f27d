"""The steps of semantic augmentation, against what they say; images, labels and masks move together."""

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from PIL import Image

from densekit.config_defaults import default_config
from densekit.d2.structures import BoxMode
from densekit.data.loader import _randomness
from densekit.data.mapper import build_mapper

MEAN = (10, 20, 30)


def made(record, seed=0, **keys):
    cfg = default_config()
    cfg.MODEL.PIXEL_MEAN = [float(value) for value in MEAN]
    cfg.INPUT.MAPPER, cfg.INPUT.RANDOM_FLIP = "CropAfterResizeMapper", "none"
    cfg.INPUT.MIN_SIZE_TRAIN = (60,)
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    cfg.merge_from_list([item for key, value in keys.items() for item in (f"INPUT.{key.replace('__', '.')}", value)])
    with _randomness(seed):
        return build_mapper(cfg, is_train=True)(record)


@pytest.fixture
def record(tmp_path):
    """80 x 60 pixels: a bright square of class 1, an instance as well, on the ground of class 0."""
    image = np.full((60, 80, 3), 90, np.uint8)
    labels = np.zeros((60, 80), np.uint8)
    image[20:50, 30:70], labels[20:50, 30:70] = 210, 1
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    mask = mask_utils.encode(np.asfortranarray(labels))
    instance = {"bbox": [30, 20, 70, 50], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "segmentation": mask}
    return {"file_name": str(tmp_path / "image.png"), "sem_seg_file_name": str(tmp_path / "labels.png"),
            "height": 60, "width": 80, "annotations": [instance]}  # fmt: skip


def agree(out, *, least=0.97):
    """Labels, mask and the colours of the picture tell the same class, except along borders that are interpolated."""
    image, labels = out["image"][1].numpy(), out["sem_seg"].numpy()
    assert image.shape == labels.shape
    expected = np.select([image > 150, image > 60], [1, 0], 255)
    assert (labels == expected).mean() > least
    if len(out["instances"]):
        assert (out["instances"].gt_masks.tensor.any(0).numpy() == (labels == 1)).mean() > least


def test_factors_are_of_the_own_size(record):
    keys = {"SCALES": (0.5, 1.0, 2.0), "SCALES_SAMPLING": "choice"}
    heights = {made(record, seed, **keys)["image"].shape[1:] for seed in range(20)}
    assert heights == {(30, 40), (60, 80), (120, 160)}
    ranged = [made(record, seed, SCALES=(0.5, 2.0))["image"].shape[1] for seed in range(20)]
    assert all(30 <= height <= 120 for height in ranged) and len(set(ranged)) > 10


def test_smaller_pictures_are_filled_up_with_the_mean_and_the_ignored_label(record):
    out = made(record, CROP__ENABLED=True, CROP__TYPE="absolute", CROP__SIZE=(70, 100), CROP__PAD=True)
    image, labels, mask = out["image"], out["sem_seg"], out["instances"].gt_masks.tensor[0]
    assert image.shape == (3, 70, 100)
    outside = torch.ones(70, 100, dtype=torch.bool)
    outside[:60, :80] = False
    assert [image[c][outside].unique().tolist() for c in range(3)] == [[value] for value in MEAN]
    assert labels[outside].unique().tolist() == [255] and not mask[outside].any()
    agree(out)
    narrow = made(record, CROP__ENABLED=True, CROP__TYPE="absolute", CROP__SIZE=(40, 100), CROP__PAD=True)
    assert narrow["image"].shape == (3, 40, 100)  # cut in one direction and filled in the other
    with pytest.raises(ValueError, match=r"INPUT\.CROP\.TYPE"):
        made(record, CROP__ENABLED=True, CROP__TYPE="relative", CROP__SIZE=(0.5, 0.5), CROP__PAD=True)


def test_rotation_turns_everything_by_one_angle(record):
    turned = [made(record, seed, ROTATION=(20.0, 20.0)) for seed in range(12)]
    moved = [out for out in turned if (out["sem_seg"] == 255).any()]
    assert 2 <= len(moved) <= 10  # every other one
    for out in turned:
        agree(out, least=0.95)
    out = moved[0]
    corner = out["image"][:, 0, 0].tolist()
    assert corner == list(MEAN) and out["sem_seg"][0, 0] == 255
    assert not out["instances"].gt_masks.tensor[0, 0, 0]
    # Counter-clockwise: where a point lies after a turn by 20 degrees about the middle.
    angle, offset = np.deg2rad(20.0), np.array([50.0 - 40, 35.0 - 30])
    x, y = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) @ offset + (40, 30)
    found = np.argwhere(out["sem_seg"].numpy() == 1).mean(0) + 0.5
    assert found == pytest.approx((y, x), abs=0.5)


def test_blur_is_a_gaussian_of_the_picture_alone(record):
    outs = [made(record, seed, BLUR=(1.1, 1.1)) for seed in range(10)]
    plain = made(record)["image"].numpy()
    axis = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 1.1**2))
    kernel = np.outer(axis, axis) / axis.sum() ** 2
    blurred = [cv2.filter2D(channel.astype(float), -1, kernel, borderType=cv2.BORDER_REFLECT_101) for channel in plain]
    changed = [out["image"].numpy() for out in outs if not np.array_equal(out["image"].numpy(), plain)]
    assert 1 <= len(changed) <= 9
    for image in changed:
        assert np.abs(image - np.stack(blurred)).max() <= 1
    assert all(torch.equal(out["sem_seg"], outs[0]["sem_seg"]) for out in outs)


def test_a_crop_lies_around_the_class_that_is_asked_for(record, tmp_path):
    labels = np.zeros((60, 80), np.uint8)
    labels[5:8, 70:74] = 7
    Image.fromarray(labels).save(tmp_path / "rare.png")
    rare = record | {"sem_seg_file_name": str(tmp_path / "rare.png")}
    window = {"CROP__ENABLED": True, "CROP__TYPE": "absolute", "CROP__SIZE": (20, 20)}
    free = [bool((made(rare, seed, **window)["sem_seg"] == 7).any()) for seed in range(20)]
    around = [bool((made(rare | {"crop_class": 7}, seed, **window)["sem_seg"] == 7).any()) for seed in range(20)]
    assert all(around) and not all(free)
    absent = made(rare | {"crop_class": 3}, **window)
    assert absent["sem_seg"].shape == (20, 20) and "crop_class" not in absent


def test_all_steps_together_are_the_same_for_a_seed(record):
    keys = {"SCALES": (0.5, 2.0), "ROTATION": (-10.0, 10.0), "BLUR": (0.5, 2.0),
            "COLOR_AUG_SSD": True, "RANDOM_FLIP": "horizontal", "CROP__ENABLED": True, "CROP__TYPE": "absolute",
            "CROP__SIZE": (48, 64), "CROP__PAD": True, "CROP__SINGLE_CATEGORY_MAX_AREA": 0.75}  # fmt: skip
    outs = [made(record, seed, **keys) for seed in (1, 1, 2)]
    assert torch.equal(outs[0]["image"], outs[1]["image"]) and torch.equal(outs[0]["sem_seg"], outs[1]["sem_seg"])
    assert not torch.equal(outs[0]["image"], outs[2]["image"])
    assert outs[2]["image"].shape == (3, 48, 64)


@pytest.mark.parametrize(
    "key, value",
    [
        ("SCALES", (0.0, 1.0)),
        ("SCALES", (0.5,)),
        ("SCALES_SAMPLING", "often"),
        ("ROTATION", (10.0, -10.0)),
        ("ROTATION", (1.0, 2.0, 3.0)),
        ("BLUR", (0.0, 1.0)),
    ],
)
def test_values_that_a_step_cannot_use_are_named(record, key, value):
    with pytest.raises(ValueError, match=rf"INPUT\.{key}"):
        made(record, **{"SCALES": (0.5, 2.0), key: value})


@pytest.mark.parametrize("opts", [("INPUT.ROTATION", (-5.0, 5.0)), ("INPUT.CROP.PAD", True)])
def test_a_step_that_the_mapper_leaves_out_is_refused(opts):
    cfg = default_config()
    cfg.merge_from_list(list(opts))
    with pytest.raises(ValueError, match=f"{opts[0]} is a step of INPUT.MAPPER CropAfterResizeMapper"):
        build_mapper(cfg, is_train=True)
    build_mapper(cfg, is_train=False)
