"""COCO files with fields of any JSON type: a clear error before training, or one reading of them everywhere.

The training's records, the evaluation's ground truth and ``check`` have to agree on the objects, and ``check --fix``
keeps every object that training would keep.
"""

import contextlib
import copy
import io
import json
import logging
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from densekit.data.coco import load_coco_json
from densekit.data.ground_truth import GroundTruth, read_coco_json
from densekit.data.inspect import Options, fix_coco, inspect_coco
from densekit.evaluation.coco_metrics import evaluate_coco
from densekit.files.atomic import strict

W, H = 64, 48
OPTIONS = Options(workers=1, progress=False)
SETTINGS = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 80)
    | st.sampled_from([2**40, 2**63, -(2**70), 10**400, 0, 1, 2])
    | st.floats(-100, 100)
    | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0, 1e300])
    | st.sampled_from(
        ["", "0", "1", "1.0", "false", "True", "nan", "null", "x", "12", " 3 ", "-1", "1e3", "é", "9f-ab"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["size", "counts", "a"]), inner, max_size=2)
    ),
    max_leaves=6,
)
KEYS = {
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "segmentation", "keypoints",
                    "num_keypoints"),
    "images": ("id", "file_name", "width", "height"),
    "categories": ("id", "name", "keypoints", "skeleton"),
}  # fmt: skip
PLACES = [(group, key) for group, keys in KEYS.items() for key in keys]


def square(x, y, w, h):
    return [[float(v) for v in (x, y, x + w, y, x + w, y + h, x, y + h)]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    for number in (1, 2, 3):
        pixels = np.random.default_rng(number).integers(0, 255, (H, W, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def content():
    annotations = []
    for image in (1, 2, 3):
        for k in range(3):
            box = [5 + 10 * k, 4 + image, 12, 9 + k]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": 1 + k % 2, "bbox": box, "iscrowd": 0,
                 "area": box[2] * box[3], "segmentation": square(*box)}
            )  # fmt: skip
    return {
        "images": [{"id": k, "file_name": f"{k}.png", "width": W, "height": H} for k in (1, 2, 3)],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
        "annotations": annotations,
    }


def write(folder, data):
    path = folder / "data.json"
    path.write_text(json.dumps(data))
    return str(path)


def check_agreement(folder, data):
    """Whether training would begin; what everybody reads is compared."""
    path = write(folder, data)
    inspection = inspect_coco(path, str(folder), "any", OPTIONS)
    json.dumps(inspection.findings.to_json(), allow_nan=False)
    fixed, _ = fix_coco(inspection.content, inspection.paths, inspection.facts) if inspection.paths else ({}, None)
    try:
        records = load_coco_json(path, str(folder))
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        assert "data.json" in message and "\n" not in message and len(message) < 900, message
        assert not inspection.findings.clean, f"check finds no error, training says: {message}"
        return False
    truth = GroundTruth.from_coco(read_coco_json(path), path)
    trained = {a["id"]: a for record in records for a in record["annotations"]}
    evaluated = {truth.annotation_ids[number]: a for number, a in truth.coco.anns.items()}
    assert trained.keys() <= evaluated.keys()
    for key, annotation in trained.items():
        assert annotation.get("iscrowd", 0) == evaluated[key]["iscrowd"]
        assert annotation["category_id"] == evaluated[key]["category_id"]
        assert annotation["bbox"] == pytest.approx(evaluated[key]["bbox"])
        assert math.isfinite(evaluated[key]["area"])
    left_out = evaluated.keys() - trained.keys()
    named = {f.annotation_id for found in inspection.findings.by_kind.values() for f in found}
    assert left_out <= named, f"left out in silence: {left_out - named}"
    assert inspection.findings.objects == len(evaluated)
    kept = {annotation["id"]: annotation for annotation in fixed["annotations"]}
    objects = sum(not a.get("iscrowd", 0) for a in trained.values())
    copies = len(inspection.findings.by_kind.get("object-twice", ()))
    assert sum(not a["iscrowd"] for a in kept.values()) >= objects - copies
    for key in kept.keys() & trained.keys():
        assert kept[key]["iscrowd"] == trained[key].get("iscrowd", 0)
    again = load_coco_json(write(folder, strict(fixed)), str(folder))
    assert sum(len(r["annotations"]) for r in again) >= len(trained) - copies
    return True


@SETTINGS
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), st.integers(0, 8), ANY), min_size=1, max_size=3))
def test_any_value_in_any_field_is_read_alike_by_all_or_refused_by_training(folder, changes):
    logging.disable(logging.CRITICAL)
    try:
        data = content()
        for (group, key), place, value in changes:
            data[group][place % len(data[group])][key] = copy.deepcopy(value)
        check_agreement(folder, data)
    finally:
        logging.disable(logging.NOTSET)


def test_the_plain_file_is_sound(folder):
    assert check_agreement(folder, content())


FORMS = {
    "ids of text": lambda a: a.update(id=f"9f{a['id']:04x}-ab"),
    "ids of fractions": lambda a: a.update(id=a["id"] + 0.5),
    "negative ids": lambda a: a.update(id=-a["id"]),
    "ids beyond 64 bits": lambda a: a.update(id=2**70 + a["id"]),
    "crowd of text": lambda a: a.update(iscrowd="0"),
    "crowd of a word": lambda a: a.update(iscrowd="false"),
    "crowd NaN": lambda a: a.update(iscrowd=math.nan),
    "crowd null": lambda a: a.update(iscrowd=None),
    "crowd false": lambda a: a.update(iscrowd=False),
    "area of text": lambda a: a.update(area=str(a["area"])),
    "area NaN": lambda a: a.update(area=math.nan),
    "area null": lambda a: a.update(area=None),
    "no area": lambda a: a.pop("area"),
    "image id of text": lambda a: a.update(image_id=str(a["image_id"])),
    "category id of text": lambda a: a.update(category_id=str(a["category_id"])),
    "category id of a float": lambda a: a.update(category_id=float(a["category_id"])),
    "num_keypoints of text": lambda a: a.update(num_keypoints="0"),
    "points as pairs": lambda a: a.update(segmentation=np.reshape(a["segmentation"][0], (-1, 2)).tolist()),
    "points as nested pairs": lambda a: a.update(segmentation=[np.reshape(a["segmentation"][0], (-1, 2)).tolist()]),
    "one polygon without a list around it": lambda a: a.update(segmentation=a["segmentation"][0]),
    "polygon of text": lambda a: a.update(segmentation=[[str(value) for value in a["segmentation"][0]]]),
    "box of text": lambda a: a.update(bbox=[str(value) for value in a["bbox"]]),
    "box as a mask": lambda a: a.update(segmentation=[a["bbox"]]),
}


def results_of(data):
    """Results that find most objects, some at a wrong place or of a wrong class, with scores that differ."""
    rng = np.random.default_rng(0)
    results = []
    for number, annotation in enumerate(data["annotations"]):
        x, y, w, h = annotation["bbox"]
        dx, dy = rng.integers(-3, 4, 2).tolist()
        results.append(
            {"image_id": annotation["image_id"], "category_id": annotation["category_id"] if number % 4 else 1,
             "bbox": [x + dx, y + dy, w, h], "score": float(rng.uniform(0.1, 1))}
        )  # fmt: skip
    return results


def of_pycocotools(data, results):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(data)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [math.nan if value == -1 else 100 * value for value in evaluation.stats[:6]]


def ours(data, results):
    truth = GroundTruth.from_coco(data, "data")
    metrics = evaluate_coco(truth, results, "bbox").metrics
    return [metrics[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")]


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_are_read_as_the_plain_ones(folder, form):
    data = content()
    expected = ours(data, results_of(data))
    assert expected[0] > 0
    changed = content()
    for annotation in changed["annotations"]:
        FORMS[form](annotation)
    assert check_agreement(folder, changed)
    write(folder, changed)
    records = load_coco_json(folder / "data.json", folder)
    assert sum(len(record["annotations"]) for record in records) == len(data["annotations"])
    np.testing.assert_allclose(ours(changed, results_of(data)), expected)


PLAIN = st.fixed_dictionaries(
    {
        "iscrowd": st.sampled_from([0, 0, 0, 1]),
        "area": st.integers(1, 20000) | st.floats(0.5, 20000),
        "id": st.integers(-(2**31), 2**31),
    }
)


@settings(SETTINGS, max_examples=60)
@given(fields=st.lists(PLAIN, min_size=9, max_size=9, unique_by=lambda fields: fields["id"]))
def test_numbers_equal_those_of_pycocotools_where_both_read_a_file(fields):
    data = content()
    for annotation, values in zip(data["annotations"], fields):
        annotation.update(values)
    results = results_of(data)
    np.testing.assert_allclose(ours(data, results), of_pycocotools(data, results), atol=1e-9)
