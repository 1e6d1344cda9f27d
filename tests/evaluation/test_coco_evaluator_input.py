"""COCOEvaluator on ground truth and predictions that are empty, odd, broken or not in a file."""

import copy
import json
import logging
import math

import numpy as np
import pycocotools.mask as mask_utils
import pytest

from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.d2.structures import BoxMode
from densekit.evaluation import COCOEvaluator
from tests.evaluation.coco_scenes import (
    CATEGORIES,
    EXACT,
    HEIGHT,
    SIGMAS,
    WIDTH,
    as_model_output,
    official,
    random_scene,
    register,
    run,
)

# ---------------------------------------------------------------------------------------------------------------------
# Nothing there, and why


def reasons(caplog, evaluator, content, detections, **options) -> tuple[dict, str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        scores = run(evaluator, content, detections, **options)
    return scores, "\n".join(record.getMessage() for record in caplog.records)


def test_no_predictions_is_zero_and_says_why(tmp_path, caplog):
    content, _ = random_scene(0)
    name = register(tmp_path, content)
    evaluator = COCOEvaluator(name, output_dir=str(tmp_path), kpt_oks_sigmas=SIGMAS)
    scores, text = reasons(caplog, evaluator, content, [])
    assert list(scores) == ["bbox", "keypoints", "segm"]  # the tasks show in the fields, empty as they are
    for task, metrics in scores.items():
        assert metrics["AP"] == metrics["AP50"] == metrics["AP-cat"] == 0
        assert math.isnan(metrics["AP-never annotated"])
        assert f"{task} AP is 0: there are no predictions at all" in text
    assert "SCORE_THRESH_TEST" in text
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == []


def test_empty_ground_truth_is_undefined_and_says_why(tmp_path, caplog):
    content, detections = random_scene(0)
    content["annotations"] = []
    scores, text = reasons(caplog, COCOEvaluator(register(tmp_path, content)), content, detections, fields=("masks",))
    assert all(math.isnan(value) for metrics in scores.values() for value in metrics.values())
    assert "bbox AP is undefined" in text and "has no annotated objects" in text


def test_crowds_alone_are_undefined_and_swallow_detections(tmp_path, caplog):
    content, _ = random_scene(0)
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    scores, text = reasons(caplog, COCOEvaluator(register(tmp_path, content)), content, [], fields=("masks",))
    assert math.isnan(scores["bbox"]["AP"]) and "crowds" in text


def test_detections_inside_a_crowd_cost_nothing(tmp_path):
    """One object, found; a crowd, in which ten more detections lie with higher scores."""
    content, _ = random_scene(0)
    image_id = content["images"][0]["id"]
    common = {"image_id": image_id, "category_id": 3}
    whole = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH // 2, HEIGHT * WIDTH // 2]}
    content["annotations"] = [
        {**common, "id": 1, "bbox": [100.0, 20.0, 40.0, 40.0], "area": 1600.0, "iscrowd": 0},
        {**common, "id": 2, "bbox": [0.0, 0.0, 80.0, 120.0], "area": 9600.0, "iscrowd": 1, "segmentation": whole},
    ]
    content["annotations"][0]["segmentation"] = [[100.0, 20.0, 140.0, 20.0, 140.0, 60.0, 100.0, 60.0]]
    found = {**common, "box": [100.0, 20.0, 140.0, 60.0], "score": 0.3, "mask": np.zeros((HEIGHT, WIDTH), bool)}
    found["mask"][20:60, 100:140] = True
    lost = [
        {**common, "box": [4.0 * k, 10.0, 4.0 * k + 20, 30.0], "score": 0.9, "mask": np.zeros((HEIGHT, WIDTH), bool)}
        for k in range(10)
    ]
    for k, detection in enumerate(lost):
        detection["mask"][10:30, 4 * k : 4 * k + 20] = True
    name = register(tmp_path, content)
    assert run(COCOEvaluator(name), content, [found, *lost], fields=("masks",))["segm"]["AP"] == pytest.approx(100)
    content["annotations"][1]["iscrowd"] = 0
    name = register(tmp_path, content, "plain")
    assert run(COCOEvaluator(name), content, [found, *lost], fields=("masks",))["segm"]["AP"] < 30


def test_wrong_classes_and_wrong_places_are_told_apart(tmp_path, caplog):
    content, detections = random_scene(0)
    name = register(tmp_path, content)
    elsewhere = [{**d, "box": [0.0, 0.0, 1.0, 1.0]} for d in detections if d["category_id"] == 3]
    scores, text = reasons(caplog, COCOEvaluator(name), content, elsewhere, fields=())
    assert scores["bbox"]["AP"] == 0 and "overlaps an object of its class by half" in text
    assert "never predicted: cell, cat" in text
    swapped = [{**d, "category_id": 40} for d in detections]
    scores, text = reasons(caplog, COCOEvaluator(name), content, swapped, fields=())
    assert scores["bbox"]["AP"] == 0 and "never occur in the ground truth (cell, car, cat)" in text


def test_classes_and_areas_without_ground_truth_are_named(tmp_path, caplog):
    content, detections = random_scene(0)
    for annotation in content["annotations"]:
        annotation["area"] = 2000.0
    scores, text = reasons(caplog, COCOEvaluator(register(tmp_path, content)), content, detections, fields=())
    assert math.isnan(scores["bbox"]["APs"]) and scores["bbox"]["APm"] > 0
    assert "APs is undefined: no object has an area below 32^2" in text
    assert "classes without ground truth: never annotated" in text


def test_data_set_without_masks_gives_undefined_mask_numbers(tmp_path, caplog):
    content, detections = random_scene(0)
    for k, annotation in enumerate(content["annotations"]):
        annotation["segmentation"] = []
        if k % 2:
            del annotation["segmentation"], annotation["area"], annotation["iscrowd"]
    scores, text = reasons(caplog, COCOEvaluator(register(tmp_path, content)), content, detections, fields=("masks",))
    assert scores["bbox"]["AP"] > 0 and math.isnan(scores["segm"]["AP"])
    assert "has 'segmentation'" in text


def test_single_class_has_no_per_class_numbers(tmp_path):
    content, detections = random_scene(0)
    content["categories"] = [{"id": 2, "name": "cell"}]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 2]
    detections = [d for d in detections if d["category_id"] == 2]
    scores = run(COCOEvaluator(register(tmp_path, content)), content, detections, fields=())
    assert list(scores["bbox"]) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]


# ---------------------------------------------------------------------------------------------------------------------
# Refusals


def test_output_without_instances_is_reported(tmp_path, caplog):
    content, _ = random_scene(0)
    evaluator = COCOEvaluator(register(tmp_path, content))
    evaluator.process([{"image_id": 1}], [{"sem_seg": None}])
    assert evaluator.evaluate() == {}
    assert "No output with 'instances'" in caplog.text


def test_refusals_name_the_cause(tmp_path):
    content, detections = random_scene(0)
    name = register(tmp_path, content)
    with pytest.raises(ValueError, match=r"Unknown COCO tasks \['boxes'\]"):
        COCOEvaluator(name, tasks=("boxes",))
    evaluator = COCOEvaluator(name)
    with pytest.raises(ValueError, match=r"asked for were \['segm'\]"):
        run(COCOEvaluator(name, tasks=("segm",)), content, detections, fields=())
    with pytest.raises(ValueError, match=r"\[5\] in .*, 17 OKS sigmas"):
        run(evaluator, content, detections)
    evaluator.reset()
    evaluator.process([{"image_id": 7777}], [{"instances": as_model_output(detections[:1])}])
    with pytest.raises(ValueError, match=r"7777"):
        evaluator.evaluate()
    wrong = as_model_output(detections[:1])
    wrong.pred_classes += 40
    evaluator.reset()
    evaluator.process([{"image_id": detections[0]["image_id"]}], [{"instances": wrong}])
    with pytest.raises(ValueError, match=r"NUM_CLASSES must be 4"):
        evaluator.evaluate()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["annotations"][1].update(id=1), "two annotations have the id 1"),
        (lambda content: content["annotations"][0].update(image_id=-5), "belongs to image -5"),
        (lambda content: content.pop("categories"), "no categories"),
        (lambda content: content["annotations"][3].pop("segmentation"), "annotation 4 has no 'segmentation'"),
    ],
)
def test_broken_ground_truth_is_refused(change, words, tmp_path):
    content, detections = random_scene(0)
    name = register(tmp_path, content)
    change(content)
    (tmp_path / "tiny.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words):
        run(COCOEvaluator(name), content, detections, fields=("masks",))


def test_file_that_is_not_json_is_named(tmp_path):
    name = register(tmp_path, random_scene(0)[0])
    (tmp_path / "tiny.json").write_text("<html>")
    with pytest.raises(ValueError, match=r"tiny\.json is not JSON"):
        COCOEvaluator(name)


# ---------------------------------------------------------------------------------------------------------------------
# Data sets from Python dicts


def python_dicts(content, ids=str) -> list[dict]:
    """The scene as a user would register it: other box format, continuous keypoints, RLE as pycocotools gives it."""
    classes = {key: k for k, key in enumerate(sorted(CATEGORIES))}
    dicts = []
    for image in content["images"]:
        annotations = []
        for a in content["annotations"]:
            if a["image_id"] != image["id"]:
                continue
            x, y, w, h = a["bbox"]
            segmentation = a["segmentation"]
            if isinstance(segmentation, dict):
                segmentation = mask_utils.frPyObjects(segmentation, HEIGHT, WIDTH)
            points = np.asarray(a["keypoints"]).reshape(-1, 3) + np.array([0.5, 0.5, 0.0])
            annotations.append(
                {
                    "bbox": np.array([x, y, x + w, y + h]),
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": classes[a["category_id"]],
                    "iscrowd": a["iscrowd"],
                    "segmentation": segmentation,
                    "keypoints": points.ravel().tolist(),
                }
            )
        size = {"height": HEIGHT, "width": WIDTH}
        dicts.append({"file_name": "x.jpg", "image_id": ids(image["id"]), **size, "annotations": annotations})
    return dicts


def test_data_set_of_python_dicts_is_evaluated_and_left_alone(tmp_path):
    content, detections = random_scene(6)
    dicts = python_dicts(content)
    before = copy.deepcopy(dicts)
    DatasetCatalog.register("own", lambda: dicts)
    MetadataCatalog.get("own").set(thing_classes=[CATEGORIES[key] for key in sorted(CATEGORIES)])
    named = {**content, "images": [{**image, "id": str(image["id"])} for image in content["images"]]}
    detections = [{**d, "image_id": str(d["image_id"])} for d in detections]

    for _ in range(2):  # twice: upstream moves the keypoints at each conversion
        evaluator = COCOEvaluator("own", output_dir=str(tmp_path), kpt_oks_sigmas=SIGMAS)
        scores = run(evaluator, named, detections)
    for record, old in zip(dicts, before):
        for a, b in zip(record["annotations"], old["annotations"]):
            assert a["keypoints"] == b["keypoints"] and np.array_equal(a["bbox"], b["bbox"])
            assert a["segmentation"] == b["segmentation"]

    written = json.loads((tmp_path / "own_coco_format.json").read_text())
    results = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert {r["image_id"] for r in results} <= {image["id"] for image in written["images"]}
    for task, metrics in scores.items():
        assert metrics == pytest.approx(official(written, results, task), **EXACT)
    for new, old in zip(written["annotations"], (a for i in content["images"] for a in of_image(content, i["id"]))):
        assert new["bbox"] == pytest.approx(old["bbox"], abs=1e-3)
        assert new["keypoints"] == pytest.approx(old["keypoints"])
        assert new["num_keypoints"] == old["num_keypoints"]
        if not old["iscrowd"]:
            assert new["area"] == pytest.approx(old["bbox"][2] * old["bbox"][3])  # the polygon is the whole box


def of_image(content, image_id) -> list[dict]:
    return [annotation for annotation in content["annotations"] if annotation["image_id"] == image_id]


def test_conversion_is_reused_only_on_request(tmp_path, caplog):
    content, detections = random_scene(6)
    dicts = python_dicts(content, ids=int)
    DatasetCatalog.register("own", lambda: dicts)
    MetadataCatalog.get("own").set(thing_classes=[CATEGORIES[key] for key in sorted(CATEGORIES)])
    first = run(COCOEvaluator("own", output_dir=str(tmp_path)), content, detections, fields=())
    for record in dicts:
        record["annotations"] = record["annotations"][:1]
    cached = COCOEvaluator("own", output_dir=str(tmp_path), allow_cached_coco=True)
    assert run(cached, content, detections, fields=())["bbox"] == pytest.approx(first["bbox"], nan_ok=True)
    fresh = run(COCOEvaluator("own", output_dir=str(tmp_path)), content, detections, fields=())
    assert fresh["bbox"]["AP"] != first["bbox"]["AP"]


def test_data_set_without_class_names_is_refused():
    DatasetCatalog.register("nameless", lambda: [])
    with pytest.raises(ValueError, match=r"'nameless' has neither a json_file nor class names"):
        COCOEvaluator("nameless")
