"""Which pictures an input names, what they are called, and what their pixels are."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from densekit.inference.inputs import Picture, pictures_of_words
from densekit.inference.reading import PictureReader, Views
from densekit.inference.video import VideoReader, count_frames, write_video


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def names(pictures):
    return [picture.name for picture in pictures]


def test_folders_patterns_and_files_in_the_order_of_the_words(tmp_path):
    touch(tmp_path, "b/2.PNG", "b/1.jpg", "b/deep/1.jpg", "b/notes.txt", "a.jpg", "odd.xyz", "out/x.jpg")
    folder = pictures_of_words([str(tmp_path / "b")], tmp_path / "out")
    assert names(folder) == ["1.jpg", "2.PNG", "deep/1.jpg"]
    assert [(p.index, p.image_id) for p in folder] == [(0, 1), (1, 2), (2, 3)]
    words = [str(tmp_path / word) for word in ("odd.xyz", "b/**/1.jpg", "a.jpg", "b")]
    mixed = pictures_of_words(words, tmp_path / "out")
    assert names(mixed) == ["odd.xyz", "b/1.jpg", "b/deep/1.jpg", "a.jpg", "b/2.PNG"]
    assert "out/x.jpg" not in names(pictures_of_words([str(tmp_path)], tmp_path / "out"))


def test_no_two_files_share_a_stem(tmp_path):
    touch(tmp_path, "x/1.jpg", "x/1.png", "y/1.jpg", "z.jpg")
    pictures = pictures_of_words([str(tmp_path)], tmp_path / "out")
    assert {p.name: p.stem for p in pictures} == {
        "x/1.jpg": "x/1.jpg", "x/1.png": "x/1.png", "y/1.jpg": "y/1", "z.jpg": "z",
    }  # fmt: skip


def test_what_is_not_there_is_named(tmp_path):
    touch(tmp_path, "texts/a.txt", "out/b.jpg")
    for word, said in (("gone.jpg", "does not exist"), ("*.tif", "matches no file"), ("texts", "suffixes .*jpg")):
        with pytest.raises(FileNotFoundError, match=said):
            pictures_of_words([str(tmp_path / word)], tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="output folder"):
        pictures_of_words([str(tmp_path / "out")], tmp_path / "out")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A film of 12 frames, each of its own brightness."""
    path = tmp_path_factory.mktemp("film") / "clip.mp4"
    write_video(path, (np.full((48, 65, 3), 20 * k, np.uint8) for k in range(12)), 10)
    return path


@pytest.mark.parametrize("by", ["pyav", "opencv"])
def test_videos_keep_odd_sizes_and_play_in_browsers(tmp_path, monkeypatch, by):
    if by == "pyav":
        pytest.importorskip("av", reason="needs densekit[video]")
    else:
        monkeypatch.setattr("densekit.inference.video.find_spec", lambda name: None)
    frame = np.zeros((49, 65, 3), np.uint8)
    frame[-1], frame[:, -1] = (0, 255, 0), (0, 255, 0)
    path = tmp_path / "odd.mp4"
    write_video(path, [frame] * 4, 29.97)
    pixels = VideoReader().read(str(path), 3)
    assert pixels.shape == ((49, 65, 3) if by == "pyav" else (50, 66, 3))
    assert pixels[-1, :, 1].min() > 150 and pixels[:, -1, 1].min() > 150 and pixels[20:30, 20:30, 1].max() < 60
    assert os.listdir(tmp_path) == ["odd.mp4"]
    head = path.read_bytes()
    assert b"vp09" in head or by == "opencv"  # an OpenCV without VP9 writes MPEG-4


def test_frames_are_pictures_by_number(clip):
    assert count_frames(str(clip)) == 12
    reader = VideoReader()
    for frame in (0, 1, 5, 11, 3, 3):
        pixels = reader.read(str(clip), frame)
        assert pixels.shape[0] == 48 and pixels.shape[1] in (65, 66) and abs(pixels.mean() - 20 * frame) < 4
    with pytest.raises(ValueError, match="frame 12"):
        reader.read(str(clip), 12)
    pictures = pictures_of_words([str(clip)], clip.parent / "out")
    assert names(pictures)[::11] == ["clip/000001.jpg", "clip/000012.jpg"] and pictures[11].frame == 11
    os.makedirs(clip.parent / "clip", exist_ok=True)
    (clip.parent / "clip" / "000001.jpg").write_bytes(b"")
    both = pictures_of_words([str(clip.parent)], clip.parent / "out")
    assert len({p.name for p in both}) == len({p.stem for p in both}) == 13
    broken = clip.parent / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"broken\.mp4"):
        pictures_of_words([str(broken)], clip.parent / "out")


def read(path, image_format="RGB"):
    return PictureReader(image_format).read(Picture(0, 1, str(path), path.name, path.stem))


def test_pictures_of_every_kind_become_three_channels_of_8_bits(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgb = np.stack([ramp, ramp.T, 255 - ramp], axis=2)
    kinds = {
        "grey": (Image.fromarray(ramp), np.stack([ramp] * 3, axis=2)),
        "rgb": (Image.fromarray(rgb), rgb),
        "rgba": (Image.fromarray(np.dstack([rgb, ramp])), rgb),
        "grey_alpha": (Image.fromarray(np.dstack([ramp, ramp]), mode="LA"), np.stack([ramp] * 3, axis=2)),
        "deep": (Image.fromarray(ramp.astype(np.uint16) * 257), np.stack([ramp] * 3, axis=2)),
        "one_bit": (Image.fromarray(ramp > 127), np.stack([np.where(ramp > 127, 255, 0)] * 3, axis=2)),
    }
    for name, (image, expected) in kinds.items():
        image.save(tmp_path / f"{name}.png")
        assert np.array_equal(read(tmp_path / f"{name}.png"), expected), name
        assert np.array_equal(read(tmp_path / f"{name}.png", "BGR"), expected[:, :, ::-1]), name
    cv2.imwrite(str(tmp_path / "deep.tif"), np.dstack([ramp] * 3).astype(np.uint16) * 257)
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="floating-point"):
        read(tmp_path / "float.tif")


@pytest.mark.parametrize(("orientation", "deep"), [*((k, False) for k in range(1, 9)), (1, True), (6, True)])
def test_pictures_stand_upright(tmp_path, orientation, deep):
    upright = np.array([[0, 50, 100], [150, 200, 250]], dtype=np.uint8)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
        6: np.rot90(upright), 7: np.rot90(upright, 2).T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = stored.astype(np.uint16) * 257 if deep else stored
    Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read(tmp_path / "turned.png")[:, :, 0], upright)


def test_what_cannot_be_read_has_a_reason(tmp_path):
    from densekit.d2.data import transforms as T

    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(whole)
    (tmp_path / "torn.jpg").write_bytes(whole.read_bytes()[:-200])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    pictures = [
        Picture(k, k, str(tmp_path / name), name, name)
        for k, name in enumerate(["whole.jpg", "torn.jpg", "empty.png", "text.png", "gone.png"])
    ]
    views = Views(pictures, "BGR", T.AugmentationList([]), None)
    good, *bad = [views[k] for k in range(5)]
    assert not good.problem and good.size == (64, 64) and good.views[0]["image"].shape == (3, 64, 64)
    for loaded in bad:
        assert loaded.picture.path in loaded.problem and "cannot be read: " in loaded.problem
        assert "\n" not in loaded.problem
