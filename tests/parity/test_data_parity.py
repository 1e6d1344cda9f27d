"""The same records, samplers and mapped training samples as the real Detectron2, number for number."""

import itertools
import random

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

import detectron2.data
import detectron2.data.datasets.builtin_meta as their_meta
import detectron2.data.datasets.coco as their_coco
import detectron2.data.samplers as their_samplers
import detectron2.data.transforms as their_transforms
from detectron2.config import get_cfg as their_cfg

import densekit.runtime.data as ours
import densekit.runtime.data.samplers as our_samplers
import densekit.runtime.data.transforms as our_transforms
from densekit.data.coco import load_coco_json
from densekit.data.coco_meta import coco_metadata, coco_person_metadata
from densekit.runtime.config import get_cfg as our_cfg


def without_id(records):
    for record in records:
        for annotation in record["annotations"]:
            annotation.pop("id", None)
    return records


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", ["instances", "person_keypoints"])
def test_records(shared_data_dir, kind, split):
    folder = shared_data_dir / "coco_mini"
    files = str(folder / f"annotations/{kind}_{split}2017.json"), str(folder / f"{split}2017")
    theirs = their_coco.load_coco_json(*files, "mini_theirs")
    detectron2.data.MetadataCatalog.remove("mini_theirs")
    assert without_id(load_coco_json(*files, "mini_ours")) == theirs


def test_metadata():
    assert coco_metadata() == their_meta._get_builtin_metadata("coco")
    person = their_meta._get_builtin_metadata("coco_person")  # which learns the id from the annotations alone
    assert coco_person_metadata() == person | {"thing_dataset_id_to_contiguous_id": {1: 0}}


def seeded(call):
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    return call()


OPTIONS = {
    "boxes": [],
    "masks": ["MODEL.MASK_ON", True],
    "bitmasks": ["MODEL.MASK_ON", True, "INPUT.MASK_FORMAT", "bitmask", "INPUT.FORMAT", "RGB"],
    "range": [
        "INPUT.MIN_SIZE_TRAIN",
        (300, 500),
        "INPUT.MIN_SIZE_TRAIN_SAMPLING",
        "range",
        "INPUT.RANDOM_FLIP",
        "none",
    ],
    "vertical": ["MODEL.MASK_ON", True, "INPUT.RANDOM_FLIP", "vertical"],
    "crop": ["INPUT.CROP.ENABLED", True],
    "crop absolute": ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute_range", "INPUT.CROP.SIZE", [200, 300]],
    "keypoints": ["MODEL.KEYPOINT_ON", True],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_mapped_training_samples(shared_data_dir, name):
    folder, kind = shared_data_dir / "coco_mini", "person_keypoints" if name == "keypoints" else "instances"
    records = load_coco_json(folder / f"annotations/{kind}_val2017.json", folder / "val2017")
    for catalog in (ours.MetadataCatalog, detectron2.data.MetadataCatalog):
        catalog.get("mini_parity").set(**coco_person_metadata())
    mappers = []
    for cfg, cls in ((our_cfg(), ours.DatasetMapper), (their_cfg(), detectron2.data.DatasetMapper)):
        cfg.merge_from_list(["DATASETS.TRAIN", ("mini_parity",), "INPUT.MIN_SIZE_TRAIN", (320, 400), *OPTIONS[name]])
        mappers.append(cls(cfg, True))
    for record in records[:12]:
        mine, theirs = (seeded(lambda m=m, r=record: m(r)) for m in mappers)
        assert torch.equal(mine["image"], theirs["image"])
        a, b = mine["instances"], theirs["instances"]
        assert set(a.get_fields()) == set(b.get_fields()) and a.image_size == b.image_size
        assert torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor) and torch.equal(a.gt_classes, b.gt_classes)
        if a.has("gt_keypoints"):
            assert torch.equal(a.gt_keypoints.tensor, b.gt_keypoints.tensor)
        if a.has("gt_masks") and "bitmask" in OPTIONS[name]:
            assert torch.equal(a.gt_masks.tensor, b.gt_masks.tensor)
        elif a.has("gt_masks"):
            pairs = itertools.zip_longest(itertools.chain(*a.gt_masks.polygons), itertools.chain(*b.gt_masks.polygons))
            assert all(np.array_equal(p, q) for p, q in pairs)
    for catalog in (ours.MetadataCatalog, detectron2.data.MetadataCatalog):
        catalog.pop("mini_parity", None)


AUGMENTATIONS = {
    "ResizeScale": lambda T: T.ResizeScale(0.5, 1.5, 60, 70),
    "RandomRotation": lambda T: T.RandomRotation([-40, 40]),
    "RandomRotation about": lambda T: T.RandomRotation([-40, 40], expand=False, center=[[0.2, 0.2], [0.8, 0.8]]),
    "RandomExtent": lambda T: T.RandomExtent((0.6, 1.4), (0.3, 0.3)),
    "RandomContrast": lambda T: T.RandomContrast(0.5, 1.5),
    "RandomBrightness": lambda T: T.RandomBrightness(0.5, 1.5),
    "RandomSaturation": lambda T: T.RandomSaturation(0.5, 1.5),
    "RandomLighting": lambda T: T.RandomLighting(20.0),
    "FixedSizeCrop": lambda T: T.FixedSizeCrop((40, 90)),
    "RandomCrop relative": lambda T: T.RandomCrop("relative", (0.3, 0.6)),
    "RandomResize": lambda T: T.RandomResize([(20, 30), (50, 40)]),
    "RandomApply": lambda T: T.RandomApply(T.RandomFlip(0.7), prob=0.6),
    "category constraint": lambda T: T.RandomCrop_CategoryAreaConstraint("absolute", (20, 20), 0.7, 255),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_augmentations(name, dtype):
    image = np.random.randint(0, 256, (64, 81, 3)).astype(dtype)
    labels = np.random.randint(0, 3, (8, 9), dtype=np.uint8).repeat(8, axis=0).repeat(9, axis=1)
    points = np.random.rand(30, 2) * (81, 64)
    if dtype == np.float32 and name == "RandomExtent":
        pytest.skip("PIL transforms uint8 images only")
    for _ in range(5):
        state = np.random.get_state()
        found = []
        for T in (our_transforms, their_transforms):
            np.random.set_state(state)
            inputs = T.AugInput(image.copy(), sem_seg=labels.copy(), boxes=np.array([[3.0, 4.0, 20.0, 30.0]]))
            done = AUGMENTATIONS[name](T)(inputs)
            found.append([inputs.image, inputs.boxes, done.apply_coords(points.copy())])
            if name != "RandomExtent":  # theirs blends labels: it takes PIL's NEAREST, which is 0, for "not given"
                found[-1].append(inputs.sem_seg)
            after = np.random.rand()
        for mine, theirs in zip(*found):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-4)
            assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        np.random.set_state(state)
        AUGMENTATIONS[name](our_transforms)(our_transforms.AugInput(image.copy(), sem_seg=labels.copy()))
        assert np.random.rand() == after  # as many draws


def test_samplers():
    factors = torch.tensor([1.0, 1.5, 2.7])
    for make in (
        lambda S: S.TrainingSampler(17, seed=4),
        lambda S: S.RepeatFactorTrainingSampler(factors, seed=4),
        lambda S: S.RandomSubsetTrainingSampler(17, 0.5, seed_shuffle=1, seed_subset=2),
    ):
        mine, theirs = (list(itertools.islice(make(S), 60)) for S in (our_samplers, their_samplers))
        assert mine == theirs
    for size, world in itertools.product((1, 7, 16), (1, 2, 5)):
        for rank in range(world):
            theirs = their_samplers.InferenceSampler._get_local_indices(size, world, rank)
            assert list(our_samplers.InferenceSampler._get_local_indices(size, world, rank)) == list(theirs)
