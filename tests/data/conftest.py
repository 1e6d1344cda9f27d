"""A tiny COCO data set on disk that tests break in one place each."""

import json

import numpy as np
import pytest
from PIL import Image

SQUARE = [[10.0, 5.0, 30.0, 5.0, 30.0, 15.0, 10.0, 15.0]]
POINTS = ["nose", "left_eye", "right_eye"]


class TinyCoco:
    """Three images of 40 x 30; ids are chosen to be neither 0-based nor sorted."""

    def __init__(self, folder):
        self.folder = folder
        self.json_file = folder / "tiny.json"
        self.image_root = folder / "images"
        self.image_root.mkdir()
        self.content = {
            "images": [{"id": i, "file_name": f"{i}.jpg", "height": 30, "width": 40} for i in (31, 11, 21)],
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "person", "keypoints": POINTS}],
            "annotations": [self.annotation(101, 11, 3), self.annotation(102, 11, 7), self.annotation(103, 21, 3)],
        }
        for image in self.content["images"]:
            pixels = np.random.randint(0, 255, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.image_root / image["file_name"])

    @staticmethod
    def annotation(number, image_id, category_id):
        annotation = {"id": number, "image_id": image_id, "category_id": category_id, "bbox": [10, 5, 20, 10],
                      "area": 200, "iscrowd": 0, "segmentation": SQUARE}  # fmt: skip
        if category_id == 3:
            annotation["keypoints"] = [12, 6, 2, 13, 7, 1, 0, 0, 0]
        return annotation

    def write(self):
        self.json_file.write_text(json.dumps(self.content))
        return self

    def load(self, name=None):
        from densekit.data.coco import load_coco_json

        return load_coco_json(self.write().json_file, self.image_root, name)

    def register(self, name="tiny"):
        from densekit.data.coco import register_coco_instances

        register_coco_instances(name, {}, str(self.write().json_file), str(self.image_root))


@pytest.fixture
def tiny(tmp_path):
    return TinyCoco(tmp_path)


@pytest.fixture
def folder(tmp_path):
    """A folder with the pictures of own_forms."""
    from tests.data.own_forms import write_pictures

    write_pictures(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def streets(tmp_path_factory):
    """A few small street scenes in all formats; tests read them only."""
    from densekit.streets import write_streets

    folder = tmp_path_factory.mktemp("made") / "streets"
    return write_streets(folder, train=3, val=2, width=256, height=128, seed=5, workers=1)
