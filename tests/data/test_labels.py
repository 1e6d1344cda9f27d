"""Label maps as class indices: every way of storing them, and every way of getting them wrong."""

import numpy as np
import pytest
import torch
from PIL import Image

from densekit.d2.config import get_cfg
from densekit.data.labels import load_sem_seg
from densekit.data.mapper import DatasetMapper
from densekit.files.panoptic_png import id2rgb

RAW = np.array([[0, 7, 7, 11], [11, 0, 255, 7]], dtype=np.uint8)
VALUES = {0: 2, 7: 0, 11: 1, 255: 255}
WANTED = np.array([[2, 0, 0, 1], [1, 2, 255, 0]])


@pytest.fixture
def record(tmp_path):
    Image.fromarray(np.random.randint(0, 255, (2, 4, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(RAW).save(tmp_path / "labels.png")
    return {"file_name": str(tmp_path / "a.png"), "sem_seg_file_name": str(tmp_path / "labels.png")}


def test_values_are_class_indices_unless_the_record_says_otherwise(record):
    np.testing.assert_array_equal(load_sem_seg(record), RAW)
    labels = load_sem_seg(record | {"sem_seg_values": VALUES})
    np.testing.assert_array_equal(labels, WANTED)
    assert labels.dtype == np.uint8


def palette(raw):
    image = Image.fromarray(raw, mode="P")
    image.putpalette(np.random.randint(0, 255, 768, dtype=np.uint8).tobytes())
    return image


@pytest.mark.parametrize(
    "stored",
    [
        palette,
        lambda raw: Image.fromarray(raw.astype(np.uint16)),
        lambda raw: Image.fromarray(np.repeat(raw[..., None], 3, axis=2)),
        lambda raw: Image.fromarray(np.stack([raw, np.full_like(raw, 9)], axis=2), mode="LA"),
    ],
    ids=["palette", "16 bits", "grey in three channels", "grey with alpha"],
)
def test_other_ways_to_store_the_same_map(record, stored):
    stored(RAW).save(record["sem_seg_file_name"])
    np.testing.assert_array_equal(load_sem_seg(record | {"sem_seg_values": VALUES}), WANTED)


def test_segments_of_a_panoptic_png(record):
    ids = np.array([[0, 26001, 26001, 7], [7, 7, 0, 16777215]])
    Image.fromarray(id2rgb(ids)).save(record["sem_seg_file_name"])
    labels = load_sem_seg(record | {"sem_seg_values": {0: 255, 26001: 0, 7: 4, 16777215: 5}})
    np.testing.assert_array_equal(labels, [[255, 0, 0, 4], [4, 4, 255, 5]])


def test_unknown_values_name_the_file_and_the_pixels(record):
    with pytest.raises(ValueError, match=r"labels\.png has the value 11, 255 in 3 pixels.*known values are 0, 7"):
        load_sem_seg(record | {"sem_seg_values": {0: 0, 7: 1}})


@pytest.mark.parametrize("known", [{}, {"height": 4, "width": 2}], ids=["from the image", "from the record"])
def test_sizes_that_differ_name_both_files(record, known):
    Image.new("RGB", (2, 4)).save(record["file_name"])
    with pytest.raises(ValueError, match=r"labels\.png is 4 x 2 .*a\.png is 2 x 4"):
        load_sem_seg(record | known)


def test_labels_of_an_image_that_exif_turns(record, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 2)).save(tmp_path / "turned.jpg", exif=exif)
    with pytest.raises(ValueError, match="EXIF orientation 6"):
        load_sem_seg(record | {"file_name": str(tmp_path / "turned.jpg")})


def test_files_that_are_no_label_maps(record, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png does not exist"):
        load_sem_seg(record | {"sem_seg_file_name": str(tmp_path / "nowhere.png")})
    Image.fromarray(RAW).save(tmp_path / "lossy.jpg")
    with pytest.raises(ValueError, match=r"lossy\.jpg.*JPEG.*PNG"):
        load_sem_seg(record | {"sem_seg_file_name": str(tmp_path / "lossy.jpg")})
    (tmp_path / "labels.png").write_bytes((tmp_path / "labels.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"labels\.png cannot be read"):
        load_sem_seg(record)
    (tmp_path / "labels.png").write_text("nothing of a picture")
    with pytest.raises(ValueError, match=r"labels\.png cannot be read: it is no image"):
        load_sem_seg(record)
    Image.fromarray(np.full((2, 4), 3000, dtype=np.uint16)).save(tmp_path / "labels.png")
    with pytest.raises(ValueError, match="value 3000"):
        load_sem_seg(record)


def mapper(is_train=True, **keys):
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = (4,), 4, 8
    cfg.INPUT.RANDOM_FLIP = keys.get("flip", "none")
    return DatasetMapper(cfg, is_train)


def test_the_mapper_augments_translated_labels(record):
    record |= {"sem_seg_values": VALUES}
    before = dict(record)
    mapped = mapper()(record)
    assert record == before and "sem_seg_values" not in mapped and "sem_seg_file_name" not in mapped
    assert mapped["image"].shape == (3, 4, 8) and mapped["sem_seg"].dtype == torch.int64
    torch.testing.assert_close(mapped["sem_seg"][::2, ::2], torch.as_tensor(WANTED))
    seen = {tuple(mapper(flip="horizontal")(record)["sem_seg"][0].tolist()) for _ in range(20)}
    assert seen == {(2, 2, 0, 0, 0, 0, 1, 1), (1, 1, 0, 0, 0, 0, 2, 2)}


def test_the_mapper_reads_no_labels_for_inference_and_names_bad_ones_in_training(record):
    record |= {"sem_seg_values": {0: 0}}
    assert "sem_seg" not in mapper(is_train=False)(record)
    with pytest.raises(ValueError, match=r"^Label map .*labels\.png has the value 7"):
        mapper()(record)
