"""Holes, mask files, the mapper, and the evaluator."""

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from densekit.config import load_config
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.d2.utils.events import EventStorage
from densekit.data import register_dataset
from densekit.data.holes import HoleFolder, fit_hole, read_hole, say_if_strange
from densekit.data.loader import SeededSamples
from densekit.data.mapper import build_mapper
from densekit.evaluation import build_evaluator, check_evaluation
from densekit.projects.inpainting.holes import KINDS

CONFIG = str(Path(__file__).resolve().parents[3] / "configs/inpainting/global_local_photos.yaml")


def photos(folder, count=3, size=(150, 180)):
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
        Image.fromarray(picture).save(folder / f"photo{number}.jpg", quality=95)
    return folder


@pytest.fixture
def photo_set(tmp_path):
    photos(tmp_path / "photos")
    register_dataset("photos_here", "images", images=str(tmp_path / "photos"))
    yield DatasetCatalog.get("photos_here")
    DatasetCatalog.remove("photos_here")
    MetadataCatalog.remove("photos_here")


def config(*options):
    return load_config(CONFIG, ["MODEL.DEVICE", "cpu", "DATASETS.TEST", "('photos_here',)", *options])


# Holes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(96, 128), (40, 33)])
def test_holes_cover_their_share_and_follow_their_seed(kind, size):
    for area in (0.05, 0.3, 0.6):
        shares = []
        for seed in range(5):
            hole = KINDS[kind](size, area, np.random.default_rng(seed))
            assert hole.shape == size and hole.dtype == bool
            assert np.array_equal(hole, KINDS[kind](size, area, np.random.default_rng(seed)))
            shares.append(hole.mean())
        assert min(shares) >= area - 0.03
        assert max(shares) <= area + 0.35  # the last stroke may be a large one


def test_holes_of_other_seeds_differ():
    for draw in KINDS.values():
        assert not np.array_equal(*(draw((64, 64), 0.3, np.random.default_rng(seed)) for seed in (1, 2)))


# Mask files


def save(path, values, mode=None):
    Image.fromarray(values).convert(mode or "L").save(path)
    return str(path)


def test_mask_files_of_every_range(tmp_path):
    hole = np.zeros((8, 10), bool)
    hole[2:5, 3:9] = True
    for name, values in {"bit": hole * 1, "byte": hole * 255, "grey": hole * 140 + 60, "jpeg": hole * 240 + 5}.items():
        path = save(tmp_path / f"{name}.png", values.astype(np.uint8))
        assert np.array_equal(read_hole(path), hole)
        assert np.array_equal(read_hole(path, "black"), ~hole)
    Image.fromarray((hole * 65535).astype(np.uint16)).save(tmp_path / "deep.png")
    assert np.array_equal(read_hole(str(tmp_path / "deep.png")), hole)
    Image.fromarray(hole).save(tmp_path / "one.png")
    assert np.array_equal(read_hole(str(tmp_path / "one.png")), hole)
    opaque = np.dstack([hole * 255] * 3 + [np.full(hole.shape, 255)]).astype(np.uint8)
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    assert np.array_equal(read_hole(str(tmp_path / "opaque.png")), hole)


def test_bad_masks_are_one_clear_line(tmp_path, caplog):
    clear = np.zeros((8, 8, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    with pytest.raises(ValueError, match=r"clear\.png is transparent"):
        read_hole(str(tmp_path / "clear.png"))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png cannot be read"):
        read_hole(str(tmp_path / "text.png"))
    with pytest.raises(ValueError, match="8 x 4"):
        fit_hole(np.zeros((4, 8), bool), (4, 9), "Mask m.png")
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (8, 1))
    with caplog.at_level(logging.WARNING):
        read_hole(save(tmp_path / "ramp.png", ramp))
        say_if_strange(np.zeros((4, 4), bool), "Picture a.jpg")
        say_if_strange(np.ones((4, 4), bool), "Picture b.jpg")
    words = [record.getMessage() for record in caplog.records]
    assert "grey values" in words[0] and "no hole" in words[1] and "nothing is left" in words[2]


def test_a_folder_of_masks_says_when_it_is_nearly_all_hole(tmp_path, caplog):
    (tmp_path / "masks").mkdir()
    values = np.full((8, 8), 255, np.uint8)
    values[:2, :2] = 0
    save(tmp_path / "masks/photo0.png", values)
    with caplog.at_level(logging.WARNING):
        HoleFolder(str(tmp_path / "masks"))
    assert "set INPUT.HOLES.POLARITY black" in caplog.text
    caplog.clear()
    folder = HoleFolder(str(tmp_path / "masks"), "black")
    assert not caplog.records
    assert folder.of_picture("/elsewhere/photo0.jpg").endswith("photo0.png")
    with pytest.raises(FileNotFoundError, match="photo1"):
        folder.of_picture("/elsewhere/photo1.jpg")
    with pytest.raises(ValueError, match="polarity"):
        HoleFolder(str(tmp_path / "masks"), "grey")


# The mapper


def test_training_samples_follow_their_draw(photo_set):
    mapper = build_mapper(config(), is_train=True)
    samples = SeededSamples(photo_set, mapper)
    first, again, other = samples[0, 7, 0], samples[0, 7, 3], samples[0, 8, 0]
    assert first["image"].shape == (3, 128, 128) and first["hole"].shape == (128, 128)
    assert first["hole"].dtype == torch.bool and 0 < first["hole"].float().mean() < 1
    for key in ("image", "hole"):
        assert torch.equal(first[key], again[key])
        assert not torch.equal(first[key], other[key])


def test_test_holes_depend_on_the_file_alone(photo_set):
    mapper = build_mapper(config(), is_train=False)
    first, again, other = mapper(photo_set[0]), mapper(photo_set[0]), mapper(photo_set[1])
    assert torch.equal(first["hole"], again["hole"]) and not torch.equal(first["hole"], other["hole"])
    assert (first["height"], first["width"]) == (128, 128)


def test_mask_files_go_with_their_pictures(photo_set, tmp_path):
    (tmp_path / "masks").mkdir()
    values = np.zeros((150, 180), np.uint8)
    values[60:90, 70:110] = 255
    for number in (0, 1):
        save(tmp_path / f"masks/photo{number}.png", values if number == 0 else values[:, 1:])
    cfg = config("INPUT.HOLES.TEST_FOLDER", str(tmp_path / "masks"))
    mapper = build_mapper(cfg, is_train=False)
    hole = mapper(photo_set[0])["hole"]
    # 150 x 180 becomes 128 x 154, of which the middle 128 columns stay.
    assert hole[60, 60] and hole.float().mean() == pytest.approx(30 * 40 / (150 * 150), rel=0.1)
    with pytest.raises(ValueError, match="size of its picture"):
        mapper(photo_set[1])
    with pytest.raises(FileNotFoundError, match="has no mask"):
        mapper(photo_set[2])
    drawn = build_mapper(config("INPUT.HOLES.FOLDER", str(tmp_path / "masks")), is_train=True)
    shares = [SeededSamples(photo_set, drawn)[0, seed, 0]["hole"].float().mean() for seed in range(4)]
    assert max(shares) == pytest.approx((values > 0).mean(), abs=0.01)


def test_what_cannot_be_cropped_or_drawn_is_named(photo_set):
    with pytest.raises(ValueError, match="MIN_SIZE_TEST 100"):
        build_mapper(config("INPUT.MIN_SIZE_TEST", "100"), is_train=False)
    with pytest.raises(ValueError, match=r"HOLES\.KINDS"):
        build_mapper(config("INPUT.HOLES.KINDS", "('circles',)"), is_train=True)
    with pytest.raises(ValueError, match=r"HOLES\.AREA"):
        build_mapper(config("INPUT.HOLES.AREA", "(0.5, 0.1)"), is_train=True)


# The evaluator


def test_evaluation_of_known_pictures(photo_set, tmp_path):
    cfg = config("OUTPUT_DIR", str(tmp_path / "run"))
    check_evaluation(cfg.DATASETS.TEST, cfg)
    evaluator = build_evaluator(cfg, "photos_here")
    evaluator.reset()
    mapper = build_mapper(cfg, is_train=False)
    shares = []
    for record in photo_set:
        item = mapper(record)
        painted = torch.where(item["hole"], item["image"].clamp(max=204) + 51, item["image"])
        right = item["image"].clamp(max=204)
        evaluator.process([item | {"image": torch.where(item["hole"], right, item["image"])}], [{"inpainted": painted}])
        shares.append(item["hole"].float().mean().item())
    with EventStorage(5) as storage:
        shown = []
        storage.put_image = lambda name, image: shown.append((name, image.shape))
        results = evaluator.evaluate()["inpainting"]
    assert shown == [("samples/photos_here", (3, 3 * 130, 3 * 128))]
    assert results["hole_L1"] == pytest.approx(20.0)
    assert results["hole_PSNR"] == pytest.approx(20 * np.log10(5))
    assert results["L1"] == pytest.approx(20 * np.mean(shares), rel=1e-4)
    buckets = {name.partition("-")[2] for name in results if name.startswith("PSNR-")}
    assert buckets == {f"{int(s * 10) * 10}-{int(s * 10) * 10 + 10}%" for s in shares}
    folder = tmp_path / "run/inference/photos_here"
    entries = json.loads((folder / "inpainting.json").read_text())
    assert [entry["hole"] for entry in entries] == pytest.approx(shares)
    assert Image.open(folder / entries[0]["strip"]).size == (3 * 128, 128)
    assert (tmp_path / "run/samples/0000005.png").is_file()


def test_a_perfect_picture_is_strict_json(photo_set, tmp_path):
    cfg = config("OUTPUT_DIR", str(tmp_path / "run"))
    evaluator = build_evaluator(cfg, "photos_here")
    mapper = build_mapper(cfg, is_train=False)
    items = [mapper(record) for record in photo_set]
    evaluator.process(items, [{"inpainted": item["image"]} for item in items])
    results = evaluator.evaluate()["inpainting"]
    assert results["L1"] == 0 and np.isnan(results["PSNR"]) and results["SSIM"] == pytest.approx(1)
    text = (tmp_path / "run/inference/photos_here/inpainting.json").read_text()
    assert json.loads(text)[0]["PSNR"] is None
