"""Segment ids and the colours of panoptic PNGs."""

import json

import numpy as np
import pytest
from PIL import Image

from densekit.files.panoptic_png import MAX_ID, id2rgb, rgb2id


def test_known_colours():
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 26001, MAX_ID]])
    expected = [
        [[0, 0, 0], [1, 0, 0], [255, 0, 0], [0, 1, 0]],
        [[255, 255, 0], [0, 0, 1], [26001 % 256, 26001 // 256, 0], [255, 255, 255]],
    ]
    colours = id2rgb(ids)
    assert colours.dtype == np.uint8
    assert colours.tolist() == expected
    assert rgb2id(colours).tolist() == ids.tolist()


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, ">i4"])
def test_inverse_of_each_other_for_every_layout_of_memory(dtype):
    ids = np.random.default_rng(0).integers(0, MAX_ID + 1, (17, 23)).astype(dtype)
    for array in (ids, ids.T, ids[::-1, ::2]):
        back = rgb2id(id2rgb(array))
        assert back.dtype == np.int32
        assert np.array_equal(back, array)
    assert rgb2id(id2rgb(ids[:0])).shape == (0, 23)


def test_what_does_not_fit_is_refused():
    for bad in (-1, MAX_ID + 1):
        with pytest.raises(ValueError, match=str(bad)):
            id2rgb(np.array([[0, bad]]))
    for shape in ((4, 5), (4, 5, 4)):
        with pytest.raises(ValueError, match="three channels"):
            rgb2id(np.zeros(shape, np.uint8))


def test_the_files_of_coco(shared_data_dir):
    folder = shared_data_dir / "coco_panoptic_sample" / "annotations"
    content = json.loads((folder / "panoptic_val2017.json").read_text())
    for annotation in content["annotations"]:
        ids = rgb2id(np.asarray(Image.open(folder / "panoptic_val2017" / annotation["file_name"])))
        found = dict(zip(*(part.tolist() for part in np.unique(ids, return_counts=True))))
        found.pop(0, None)
        assert found == {segment["id"]: segment["area"] for segment in annotation["segments_info"]}
