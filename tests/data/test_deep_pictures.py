"""Pictures of more than 8 bits, read alike by training, evaluation and prediction."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from densekit.d2.config import get_cfg
from densekit.data.mapper import DatasetMapper
from densekit.data.pictures import depth_note, read_picture
from densekit.data.training_images import read_training_image
from densekit.inference.inputs import Picture
from densekit.inference.reading import PictureReader
from densekit.report.thumbnails import thumbnail

RAMP = np.arange(48 * 40, dtype=np.uint16).reshape(48, 40) % 256


def save(path, values):
    Image.fromarray(values.astype(np.uint16)).save(path)
    return str(path)


def with_significant_bits(path, bits):
    """Adds PNG's sBIT chunk behind the header."""
    raw = path.read_bytes()
    body = b"sBIT" + bytes([bits])
    chunk = struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(raw[:33] + chunk + raw[33:])


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize(("bits", "factor"), [(0, 257), (12, 16), (14, 64)])
def test_every_reader_gives_the_picture_of_8_bits(tmp_path, ending, bits, factor):
    path = save(tmp_path / f"deep.{ending}", RAMP * factor)
    most = 2 ** (bits or 16) - 1
    expected = (RAMP.astype(np.int64) * factor * 255 // most).astype(np.uint8)
    for format in ("BGR", "RGB"):
        grey = np.repeat(expected[:, :, None], 3, axis=2)
        np.testing.assert_array_equal(read_picture(path, format, bits), grey)
        np.testing.assert_array_equal(read_training_image(path, format, bits), grey)
        reader = PictureReader(format, bits)
        np.testing.assert_array_equal(reader.read(Picture(0, 1, path, "deep", "deep")), grey)
    np.testing.assert_array_equal(read_picture(path, "L", bits)[:, :, 0], expected)
    reader = PictureReader("L", bits)
    assert reader.read(Picture(0, 1, path, "deep", "deep")).shape == (48, 40, 1)
    assert thumbnail(path, 32) is not None


def test_training_and_evaluation_see_the_same(tmp_path):
    deep = save(tmp_path / "deep.png", RAMP * 257)
    plain = str(tmp_path / "plain.png")
    Image.fromarray(RAMP.astype(np.uint8)).save(plain)
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TEST = 40
    cfg.INPUT.MIN_SIZE_TRAIN = (40,)
    cfg.INPUT.RANDOM_FLIP = "none"
    for is_train in (True, False):
        mapper = DatasetMapper(cfg, is_train)
        images = [mapper({"file_name": path, "height": 48, "width": 40})["image"] for path in (deep, plain)]
        np.testing.assert_array_equal(*images)
        twelve = {"file_name": save(tmp_path / "twelve.png", RAMP * 16), "height": 48, "width": 40, "bit_depth": 12}
        difference = mapper(twelve)["image"].int() - images[1].int()
        assert difference.abs().max() <= 1


def test_the_file_says_how_many_bits_are_used(tmp_path):
    path = tmp_path / "twelve.png"
    save(path, RAMP * 16)
    assert "16 bits" in depth_note(str(path)) and "divided by 257" in depth_note(str(path))
    assert "4080" in depth_note(str(path))  # 12 bits, by their largest value
    with_significant_bits(path, 12)
    assert "4095" in depth_note(str(path))
    np.testing.assert_array_equal(read_picture(str(path), "L")[:, :, 0], RAMP.astype(int) * 16 * 255 // 4095)
    assert depth_note(save(tmp_path / "x.png", RAMP)) and not depth_note(__file__)


def test_fractions_are_refused(tmp_path):
    path = str(tmp_path / "float.tif")
    Image.fromarray(RAMP.astype(np.float32)).save(path)
    with pytest.raises(ValueError, match="floating-point"):
        read_picture(path, "BGR")
