"""COCOEvaluator against pycocotools, on random scenes and on real annotations."""

import contextlib
import copy
import io
import json
import logging
import math

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from densekit.d2.config import get_cfg
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.d2.structures import Boxes, BoxMode, Instances
from densekit.d2.utils import comm
from densekit.evaluation import COCOEvaluator, build_evaluator
from densekit.evaluation.coco_metrics import evaluate_coco
from densekit.evaluation.ground_truth import GroundTruth
from densekit.evaluation.predictions import encode_masks, instances_to_coco_json

pytestmark = pytest.mark.usefixtures("restore_catalogs")

HEIGHT, WIDTH, KEYPOINTS = 120, 160, 5
SIGMAS = [0.05, 0.07, 0.08, 0.1, 0.03]
CATEGORIES = {2: "cell", 3: "car", 17: "cat", 40: "never annotated"}
EXACT = {"rel": 0, "abs": 1e-6, "nan_ok": True}


# ---------------------------------------------------------------------------------------------------------------------
# Material


def disc(x, y, w, h) -> np.ndarray:
    """An ellipse, so that a mask's area is not its box's."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return ((columns - x - w / 2) / (w / 2)) ** 2 + ((rows - y - h / 2) / (h / 2)) ** 2 <= 1


def random_object(rng, identity, image_id) -> dict:
    w, h = rng.uniform(3, 110, 2)  # areas on both sides of 32^2 and 96^2
    x, y = rng.uniform(0, WIDTH - w), rng.uniform(0, HEIGHT - h)
    mask = disc(x, y, w, h)
    crowd = rng.random() < 0.15
    runs = np.diff(np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=0)), prepend=0).tolist()
    runs.append(mask.size - sum(runs))
    points = np.c_[rng.uniform(x, x + w, KEYPOINTS), rng.uniform(y, y + h, KEYPOINTS), rng.integers(0, 3, KEYPOINTS)]
    points *= rng.random() < 0.8  # some persons without any keypoint
    return {
        "id": identity,
        "image_id": image_id,
        "category_id": int(rng.choice([2, 3, 17])),
        "bbox": [x, y, w, h],
        "area": float(rng.choice([mask.sum(), 32**2, 96**2])),  # also right on the borders
        "iscrowd": int(crowd),
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": runs}
        if crowd
        else [[x, y, x + w, y, x + w, y + h, x, y + h]],
        "keypoints": points.ravel().tolist(),
        "num_keypoints": int((points[:, 2] > 0).sum()),
    }


def random_detection(rng, target) -> dict:
    x, y, w, h = target["bbox"] + rng.normal(size=4) * rng.uniform(0, 8)
    x, y, w, h = (np.float32(max(value, 1.0)) for value in (x, y, w, h))
    points = np.asarray(target["keypoints"]).reshape(-1, 3) + rng.normal(size=(KEYPOINTS, 3)) * rng.uniform(0, 4)
    same = rng.random() < 0.8
    return {
        "image_id": target["image_id"],
        "category_id": target["category_id"] if same else int(rng.choice(list(CATEGORIES))),
        "box": [x, y, x + w, y + h],
        "score": round(rng.random(), 1),  # many ties
        "mask": disc(x, y, w, h),
        "keypoints": points,
    }


def random_scene(seed: int, images: int = 8) -> tuple[dict, list[dict]]:
    """Returns a COCO file's content and detections; one image has more than 100 of one class."""
    rng = np.random.default_rng(seed)
    ids = [int(value) for value in rng.permutation(500)[:images]]
    annotations = []
    for image_id in ids[1:]:  # and one image without objects
        for _ in range(rng.integers(1, 9)):
            annotations.append(random_object(rng, len(annotations) + 1, image_id))
    detections = [random_detection(rng, target) for target in annotations for _ in range(rng.integers(0, 4))]
    detections += [random_detection(rng, annotations[-1]) for _ in range(120)]
    detections += [random_detection(rng, {**annotations[0], "image_id": ids[0]}) for _ in range(2)]
    if seed % 2:  # a class that is annotated and never predicted
        detections = [detection for detection in detections if detection["category_id"] != 3]
    content = {
        "images": [{"id": key, "file_name": f"{key}.jpg", "height": HEIGHT, "width": WIDTH} for key in ids],
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for key, name in CATEGORIES.items()],
    }
    return content, detections


def register(tmp_path, content, name="tiny") -> str:
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(content))
    ids = sorted(category["id"] for category in content["categories"])
    names = {category["id"]: category["name"] for category in content["categories"]}
    MetadataCatalog.get(name).set(
        json_file=str(path),
        evaluator_type="coco",
        thing_classes=[names[key] for key in ids],
        thing_dataset_id_to_contiguous_id={key: k for k, key in enumerate(ids)},
    )
    return name


def as_model_output(detections, fields=("masks", "keypoints"), size=(HEIGHT, WIDTH)) -> Instances:
    """Returns what a model says about one image; its classes are 0, 1 ... in the order of the category ids."""
    classes = {key: k for k, key in enumerate(sorted(CATEGORIES))}
    result = Instances(size)
    result.pred_boxes = Boxes(torch.tensor(np.array([d["box"] for d in detections]).reshape(-1, 4)).float())
    result.scores = torch.tensor([d["score"] for d in detections], dtype=torch.float64)
    result.pred_classes = torch.tensor([classes[d["category_id"]] for d in detections], dtype=torch.int64)
    if "masks" in fields:
        result.pred_masks = torch.tensor(np.array([d["mask"] for d in detections]).reshape(-1, *size)).bool()
    if "keypoints" in fields:
        points = torch.tensor(np.array([d["keypoints"] for d in detections]).reshape(-1, KEYPOINTS, 3)).float()
        result.pred_keypoints = points + torch.tensor([0.5, 0.5, 0.0])
    return result


def run(evaluator, content, detections, **options):
    """Shows every image to the evaluator, three at a time."""
    evaluator.reset()
    ids = [image["id"] for image in content["images"]]
    for start in range(0, len(ids), 3):
        batch = ids[start : start + 3]
        outputs = [as_model_output([d for d in detections if d["image_id"] == key], **options) for key in batch]
        evaluator.process([{"image_id": key} for key in batch], [{"instances": output} for output in outputs])
    return evaluator.evaluate()


def official(content, results, task, max_dets=None, sigmas=SIGMAS) -> dict[str, float]:
    """What pycocotools says about a results file, named as Detectron2 names it."""
    kept = {"bbox": ("bbox",), "segm": ("segmentation",), "keypoints": ("bbox", "keypoints")}[task]
    results = [{key: copy.deepcopy(r[key]) for key in ("image_id", "category_id", "score", *kept)} for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), task)
        if task == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        elif max_dets:
            evaluation.params.maxDets = [1, 10, max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]

    def mean(part):
        return 100 * np.mean(part[part > -1]) if (part > -1).any() else float("nan")

    areas = ["APm", "APl"] if task == "keypoints" else ["APs", "APm", "APl"]
    expected = {"AP": mean(precision[..., 0]), "AP50": mean(precision[0, ..., 0]), "AP75": mean(precision[5, ..., 0])}
    expected |= {name: mean(precision[..., k]) for k, name in enumerate(areas, start=1)}
    names = {category["id"]: category["name"] for category in content["categories"]}
    return expected | {f"AP-{names[key]}": mean(precision[:, :, k, 0]) for k, key in enumerate(sorted(names))}


# ---------------------------------------------------------------------------------------------------------------------
# The same numbers as pycocotools


@pytest.mark.parametrize("seed", range(4))
def test_every_number_is_pycocotools_number(seed, tmp_path):
    content, detections = random_scene(seed)
    evaluator = COCOEvaluator(register(tmp_path, content), output_dir=str(tmp_path / "out"), kpt_oks_sigmas=SIGMAS)
    scores = run(evaluator, content, detections)
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert list(scores) == ["bbox", "keypoints", "segm"]
    for task, metrics in scores.items():
        assert metrics == pytest.approx(official(content, results, task), **EXACT)
        assert list(metrics) == list(official(content, results, task))
        assert 0 < metrics["AP"] < 100 and math.isnan(metrics["AP-never annotated"])


def test_precision_tables_are_pycocotools_tables():
    """Beyond the averages: one category, one area range, one image at a time, down to single entries."""
    content, detections = random_scene(11)
    for image in content["images"]:
        content_of_one = {**content, "images": [image]}
        content_of_one["annotations"] = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        results = [r for d in detections if d["image_id"] == image["id"] for r in to_results([d])]
        if not results:
            continue
        truth = GroundTruth.from_coco(content_of_one, "test")
        for task in ("bbox", "segm", "keypoints"):
            scores = evaluate_coco(truth, results, task, kpt_oks_sigmas=SIGMAS)
            expected = official(content_of_one, results, task)
            assert scores.metrics == pytest.approx({key: expected[key] for key in scores.metrics}, **EXACT)
            for key, value in scores.per_category.items():
                assert value == pytest.approx(expected[f"AP-{CATEGORIES[key]}"], **EXACT)


def to_results(detections) -> list[dict]:
    results = instances_to_coco_json(as_model_output(detections), detections[0]["image_id"])
    return [{**r, "category_id": d["category_id"]} for r, d in zip(results, detections)]


@pytest.mark.parametrize("limit", [15, 300])
def test_other_limits_of_detections(limit, tmp_path):
    content, detections = random_scene(5)
    evaluator = COCOEvaluator(
        register(tmp_path, content), tasks=("bbox", "segm"), output_dir=str(tmp_path), max_dets_per_image=limit
    )
    scores = run(evaluator, content, detections)
    results = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert set(scores) == {"bbox", "segm"}
    for task in scores:
        assert scores[task] == pytest.approx(official(content, results, task, max_dets=limit), **EXACT)
    assert scores != run(COCOEvaluator("tiny", tasks=("bbox", "segm")), content, detections)


@pytest.mark.parametrize(
    ("kind", "tasks"), [("instances", ("bbox", "segm")), ("person_keypoints", ("bbox", "keypoints"))]
)
def test_real_annotations_perturbed(kind, tasks, shared_data_dir, tmp_path):
    """A subset of COCO; the predictions are its objects, moved, rescored and in part relabelled or left out."""
    path = shared_data_dir / "coco_mini" / "annotations" / f"{kind}_val2017.json"
    content = json.loads(path.read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO(str(path))
    rng = np.random.default_rng(0)
    ids = sorted(index.cats)
    results = []
    for annotation in content["annotations"]:
        for _ in range(rng.integers(0, 3)):
            mask = np.roll(index.annToMask(annotation), tuple(rng.integers(-4, 5, 2)), axis=(0, 1))
            moved = {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"] if rng.random() < 0.8 else int(rng.choice(ids)),
                "bbox": (np.array(annotation["bbox"]) + rng.normal(size=4).clip(0, 3) * 4).tolist(),
                "score": round(rng.random(), 2),
                "segmentation": encode_masks(torch.from_numpy(mask)[None])[0],
            }
            if "keypoints" in annotation:
                points = np.array(annotation["keypoints"], dtype=float).reshape(-1, 3)
                moved["keypoints"] = (points + rng.normal(size=points.shape) * 4).ravel().tolist()
            results.append(moved)
    truth = GroundTruth.from_coco(content, str(path))
    coco_sigmas = [0.026, 0.025, 0.025, *[0.035] * 2, *[0.079] * 2, *[0.072] * 2, *[0.062] * 2]
    coco_sigmas += [*[0.107] * 2, *[0.087] * 2, *[0.089] * 2]
    for task in tasks:
        scores = evaluate_coco(truth, results, task)
        expected = official(content, results, task, sigmas=coco_sigmas)
        assert scores.metrics == pytest.approx({key: expected[key] for key in scores.metrics}, **EXACT)
        for key, value in scores.per_category.items():
            assert value == pytest.approx(expected[f"AP-{index.cats[key]['name']}"], **EXACT)
        assert 5 < scores.metrics["AP"] < 95


def test_ground_truth_against_itself_is_100(shared_data_dir):
    for kind, tasks in (("instances", ("bbox", "segm")), ("person_keypoints", ("keypoints",))):
        path = shared_data_dir / "coco_mini" / "annotations" / f"{kind}_val2017.json"
        content = json.loads(path.read_text())
        with contextlib.redirect_stdout(io.StringIO()):
            index = COCO(str(path))
        truth = GroundTruth.from_coco(content, str(path))
        results = []
        for annotation in content["annotations"]:
            if annotation.get("num_keypoints") == 0:
                continue  # a person without keypoints cannot be found by them
            rle = index.annToRLE(annotation)
            results.append({**annotation, "score": 0.9, "segmentation": {**rle, "counts": rle["counts"].decode()}})
        for task in tasks:
            scores = evaluate_coco(truth, results, task)
            assert all(value == pytest.approx(100) for value in scores.metrics.values())


# ---------------------------------------------------------------------------------------------------------------------
# The results file


def test_results_file_loads_with_pycocotools_and_holds_what_was_predicted(tmp_path):
    content, detections = random_scene(2)
    run(
        COCOEvaluator(register(tmp_path, content), output_dir=str(tmp_path), kpt_oks_sigmas=SIGMAS), content, detections
    )
    path = tmp_path / "coco_instances_results.json"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "tiny.json"))
        loaded = truth.loadRes(str(path))
    results = list(loaded.anns.values())
    assert len(results) == len(detections)
    in_order = [d for key in sorted({d["image_id"] for d in detections}) for d in detections if d["image_id"] == key]
    for result, detection in zip(results, in_order):
        assert result["image_id"] == detection["image_id"]
        assert result["category_id"] == detection["category_id"] in CATEGORIES
        assert result["score"] == detection["score"]
        x0, y0, x1, y1 = detection["box"]
        assert result["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=1e-4)
        assert np.array_equal(loaded.annToMask(result), detection["mask"])
        assert np.reshape(result["keypoints"], (-1, 3)) == pytest.approx(detection["keypoints"], abs=1e-4)
    assert list(json.loads(path.read_text())[0]) == [
        "image_id", "category_id", "bbox", "score", "segmentation", "keypoints"
    ]  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["coco_instances_results.json", "tiny.json"]


def test_failed_write_leaves_the_old_file(tmp_path):
    content, detections = random_scene(2)
    evaluator = COCOEvaluator(register(tmp_path, content), tasks=("bbox",), output_dir=str(tmp_path))
    run(evaluator, content, detections, fields=())
    before = (tmp_path / "coco_instances_results.json").read_bytes()
    detections[0]["score"] = float("nan")
    with pytest.raises(ValueError, match="JSON compliant"):
        run(evaluator, content, detections, fields=())
    assert (tmp_path / "coco_instances_results.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_model_outputs_are_not_changed():
    detections = random_scene(3)[1][:4]
    output = as_model_output(detections)
    before = copy.deepcopy(output)
    instances_to_coco_json(output, 1)
    for name, value in before.get_fields().items():
        after = getattr(output, name)
        assert torch.equal(getattr(after, "tensor", after), getattr(value, "tensor", value)), name


@pytest.mark.parametrize("count", [0, 1, 5])
def test_masks_survive_encoding(count):
    masks = torch.rand(count, 37, 53) > 0.5
    masks[1:2] = False
    encoded = encode_masks(masks)
    assert len(encoded) == count and all(rle["size"] == [37, 53] and isinstance(rle["counts"], str) for rle in encoded)
    assert encode_masks(masks.to(torch.uint8)) == encoded == encode_masks(masks.transpose(1, 2).clone().transpose(1, 2))
    for rle, mask in zip(encoded, masks):
        assert np.array_equal(mask_utils.decode(rle), mask.numpy())
        assert rle["counts"].encode() == mask_utils.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))["counts"]


def test_test_set_without_annotations_is_only_predicted_on(tmp_path, caplog):
    content, detections = random_scene(1)
    del content["annotations"]
    evaluator = COCOEvaluator(register(tmp_path, content), output_dir=str(tmp_path))
    with caplog.at_level(logging.INFO):
        assert run(evaluator, content, detections, fields=()) == {}
    assert "has no annotations" in caplog.text and "tiny.json" in caplog.text
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) == len(detections)


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


# ---------------------------------------------------------------------------------------------------------------------
# Several processes


def test_padded_samplers_count_each_image_once(tmp_path, monkeypatch, caplog):
    """Two processes' predictions, three images in both, in whatever order: the file and the numbers stay the same."""
    content, detections = random_scene(4)
    name = register(tmp_path, content)
    whole = run(COCOEvaluator(name, output_dir=str(tmp_path / "one")), content, detections, fields=("masks",))
    parts = []
    for keep in (slice(None, None, -2), slice(None, 7)):
        part = COCOEvaluator(name, output_dir=str(tmp_path / "two"))
        run(part, {**content, "images": content["images"][keep]}, detections, fields=("masks",))
        parts.append(part._predictions)
    last = COCOEvaluator(name, output_dir=str(tmp_path / "two"))
    monkeypatch.setattr(comm, "gather", lambda data, dst=0: parts)
    with caplog.at_level(logging.INFO):
        together = last.evaluate()
    for task in ("bbox", "segm"):
        assert together[task] == pytest.approx(whole[task], nan_ok=True)
    assert "repeated images were dropped" in caplog.text
    one, two = (tmp_path / folder / "coco_instances_results.json" for folder in ("one", "two"))
    assert one.read_text() == two.read_text()


def test_only_the_main_process_reports(tmp_path, monkeypatch):
    content, detections = random_scene(4)
    name = register(tmp_path, content)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    evaluator = COCOEvaluator(name, output_dir=str(tmp_path / "out"))
    assert run(evaluator, content, detections, fields=()) == {}
    assert not (tmp_path / "out").exists()


def test_images_that_were_never_shown_are_reported(tmp_path, caplog):
    content, detections = random_scene(4)
    evaluator = COCOEvaluator(register(tmp_path, content))
    fewer = {**content, "images": content["images"][:3]}
    run(evaluator, fewer, detections, fields=())
    assert "5 images of 'tiny' were not shown" in caplog.text
    ids = [image["id"] for image in fewer["images"]]
    some = evaluator.evaluate(img_ids=ids)
    seen = {
        **content,
        "images": fewer["images"],
        "annotations": [a for a in content["annotations"] if a["image_id"] in ids],
    }
    results = [r for key in ids for d in detections if d["image_id"] == key for r in to_results([d])]
    assert some["bbox"] == pytest.approx(official(seen, results, "bbox"), **EXACT)


# ---------------------------------------------------------------------------------------------------------------------
# The table of evaluators


def test_build_evaluator_gives_each_test_set_its_folder(tmp_path):
    content, detections = random_scene(0)
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    cfg.TEST.KEYPOINT_OKS_SIGMAS = SIGMAS
    scores = run(build_evaluator(cfg, register(tmp_path, content)), content, detections)
    assert set(scores) == {"bbox", "segm", "keypoints"}
    assert (tmp_path / "run" / "inference" / "tiny" / "coco_instances_results.json").is_file()
    run(build_evaluator(cfg, "tiny", str(tmp_path / "elsewhere")), content, detections)
    assert (tmp_path / "elsewhere" / "coco_instances_results.json").is_file()


def test_unknown_evaluator_type_names_the_known_ones():
    MetadataCatalog.get("strange").evaluator_type = "audio"
    with pytest.raises(ValueError, match=r"'strange' has the evaluator_type 'audio'; known are .*coco"):
        build_evaluator(get_cfg(), "strange")
