"""What ``check`` calls an error ends a training before its first step, or is harmless for a reason that stands here.

Faults are planted one by one, as in the tests of ``check``; set-up is what train_net.py runs before the model is built.
"""

import json

import numpy as np
import pytest
from PIL import Image

import tests.data.test_inspect as planted
from densekit.config import load_config
from densekit.data.checks import check_datasets
from densekit.data.coco import register_coco_instances
from densekit.data.inspect import KINDS
from densekit.evaluation import check_evaluation

# Kinds at level error with which a training may go on, and why that does no harm to it.
HARMLESS = {
    "box-empty": "the object is left out, and one line counts them",
    "box-outside": "the object is left out, and one line counts them",
    "polygon-degenerate": "the polygon is left out, and one line counts them",
    "polygon-box": "the polygon is left out, and one line says what it is and how to mend it",
    "mask-empty": "the object is left out, and one line counts them",
    "mask-elsewhere": "the box is learnt; its mask has no pixel inside the box and adds an empty target",
    "keypoint-names": "training with MODEL.KEYPOINT_ON is refused; boxes and masks do not use the names",
    "keypoint-skeleton": "limbs are only drawn; those of no keypoint are left out",
    "num-classes": "NUM_CLASSES follows the data unless it is set, and then set-up compares",
    "leakage": "the training itself is sound; one line says how many test pictures are trained on",
    "image-damaged": "decoders guess a part of the picture",
}
# Faults that no file of boxes and masks for one picture folder has; tests of their own forms cover them.
ELSEWHERE = (
    "label-", "panoptic-", "segment-", "frame-", "loader-refuses", "file-refused", "annotations-unreadable",
    "no-images", "path-outside", "leakage", "num-classes", "crowd-unclear",
)  # fmt: skip


@pytest.fixture
def data(tmp_path):
    return planted.Data(tmp_path)


def set_up(data, keypoints=False):
    register_coco_instances("faulty", {"keypoint_flip_map": ()}, data.json_file, str(data.images))
    cfg = load_config("configs/_base_/models/rcnn_tiny.yaml", [
        "DATASETS.TRAIN", "('faulty',)", "DATASETS.TEST", "('faulty',)", "MODEL.ROI_HEADS.NUM_CLASSES", "2",
        "MODEL.MASK_ON", "False", "MODEL.KEYPOINT_ON", str(keypoints),
    ])  # fmt: skip
    check_datasets(cfg, files=True)
    check_evaluation(cfg.DATASETS.TEST, cfg)


def errors_of(expected):
    return [kind for kind in expected if KINDS[kind].severity == "error"]


FAULTY = [name for name, (_, expected) in planted.FAULTS.items() if errors_of(expected)]
NOT_USED = ("no keypoints",)  # refused where MODEL.KEYPOINT_ON asks for them


@pytest.mark.parametrize("fault", FAULTY)
def test_an_error_of_check_ends_set_up_or_is_harmless(data, fault):
    plant, expected = planted.FAULTS[fault]
    plant(data)
    data.write()
    if all(kind in HARMLESS for kind in errors_of(expected)) or fault in NOT_USED:
        return
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        set_up(data)
    assert "\n" not in str(error.value) and len(str(error.value)) < 900


def test_every_kind_at_level_error_is_planted_or_belongs_to_another_form():
    planted_kinds = {kind for fault in FAULTY for kind in errors_of(planted.FAULTS[fault][1])}
    missing = {name for name, kind in KINDS.items() if kind.severity == "error"} - planted_kinds - HARMLESS.keys()
    assert not {name for name in missing if not name.startswith(ELSEWHERE)}


def test_sound_data_is_set_up(data):
    set_up(data)


def test_keypoints_that_the_metric_has_no_sigmas_for(data):
    """Three keypoints, and COCO's own sigmas are for seventeen."""
    data.content["annotations"] = [a for a in data.content["annotations"] if a["category_id"] == 7]
    data.content["categories"] = data.content["categories"][:1]
    data.write()
    register_coco_instances("poses", {}, data.json_file, str(data.images))
    options = ["DATASETS.TRAIN", "('poses',)", "DATASETS.TEST", "('poses',)", "MODEL.KEYPOINT_ON", "True",
               "MODEL.ROI_HEADS.NUM_CLASSES", "1", "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "3"]  # fmt: skip
    cfg = load_config("configs/_base_/models/rcnn_tiny.yaml", [*options, "MODEL.MASK_ON", "False"])
    check_datasets(cfg, files=True)
    with pytest.raises(ValueError, match="KEYPOINT_OKS_SIGMAS"):
        check_evaluation(cfg.DATASETS.TEST, cfg)


def test_a_label_map_that_is_missing_or_of_another_size(tmp_path):
    from densekit.data.file_checks import check_files

    records = []
    for name in ("a", "b"):
        Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / f"{name}_map.png")
        files = {"file_name": str(tmp_path / f"{name}.png"), "sem_seg_file_name": str(tmp_path / f"{name}_map.png")}
        records.append({**files, "height": 8, "width": 9})
    check_files("maps", records, labels=True)
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(tmp_path / "b_map.png")
    with pytest.raises(ValueError, match="b_map"):
        check_files("maps", records, labels=True)
    (tmp_path / "b_map.png").unlink()
    with pytest.raises(FileNotFoundError, match="b_map"):
        check_files("maps", records, labels=True)
    check_files("maps", records, labels=False)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("photos\\a.jpg", "backslashes"),
        ("my%20photo.jpg", "%20"),
        ("https://x.org/a.jpg", "URL"),
        ("C:/a.jpg", "drive"),
    ],
)
def test_names_of_other_systems_get_the_likely_cause(data, name, part):
    data.content["images"][0]["file_name"] = name
    data.write()
    with pytest.raises((ValueError, FileNotFoundError), match=part):
        set_up(data)
    json.dumps(data.inspect().findings.to_json())
