"""Pictures are made once, and again where their file has changed or what was kept is damaged."""

import os

import numpy as np
import pytest

from densekit.data.picture_cache import PictureCache


class Maker:
    """Makes pixels of its own count, so that each of its pictures can be told from the one before."""

    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1
        return np.full((4, 5, 3), self.count, np.uint8), (40, 50)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept" / "here"


def shown(cache, picture, make, form="8 BGR 0"):
    pixels, size = cache.get(str(picture), form, make)
    assert pixels.dtype == np.uint8 and pixels.shape == (4, 5, 3) and size == (40, 50)
    return int(pixels[0, 0, 0])


def test_memory_keeps_what_fits(picture, tmp_path):
    make, cache = Maker(), PictureCache(memory_bytes=100)  # a picture has 60
    assert [shown(cache, picture, make) for _ in range(3)] == [1, 1, 1]
    assert [shown(cache, tmp_path / "b.jpg", make) for _ in range(2)] == [2, 3]
    assert len(cache) == 1


def test_a_folder_serves_other_processes(picture, folder):
    make = Maker()
    assert [shown(PictureCache(folder=str(folder)), picture, make) for _ in range(3)] == [1, 1, 1]
    assert shown(PictureCache(folder=str(folder)), picture, make, form="16 BGR 0") == 2
    assert not list(folder.glob("*.part"))


def test_a_changed_picture_is_made_again(picture, folder):
    make = Maker()
    shown(PictureCache(folder=str(folder)), picture, make)
    picture.write_bytes(b"other")
    assert shown(PictureCache(folder=str(folder)), picture, make) == 2
    os.utime(picture, ns=(1, 1))
    assert shown(PictureCache(folder=str(folder)), picture, make) == 3


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: b"", lambda data: data.replace(b"\1", b"\7")])
def test_a_damaged_file_is_replaced(picture, folder, damage):
    make = Maker()
    shown(PictureCache(folder=str(folder)), picture, make)
    (kept,) = folder.iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    assert [shown(PictureCache(folder=str(folder)), picture, make) for _ in range(2)] == [2, 2]


def test_a_folder_that_cannot_be_written_is_named_once(picture, tmp_path, caplog):
    make, cache = Maker(), PictureCache(folder=str(picture / "below"))
    assert [shown(cache, picture, make) for _ in range(2)] == [1, 2]
    assert len(caplog.messages) == 1 and str(picture / "below") in caplog.text


def test_a_missing_picture_is_the_makers_error(folder, tmp_path):
    def make():
        raise FileNotFoundError("absent")

    with pytest.raises(FileNotFoundError, match="absent"):
        PictureCache(folder=str(folder)).get(str(tmp_path / "absent.jpg"), "", make)
