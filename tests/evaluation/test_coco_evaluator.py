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

from densekit.config_defaults import add_densekit_config
from densekit.d2.config import get_cfg
from densekit.d2.data import MetadataCatalog
from densekit.d2.utils import comm
from densekit.data.ground_truth import GroundTruth
from densekit.evaluation import COCOEvaluator, build_evaluator
from densekit.evaluation.coco_metrics import evaluate_coco
from densekit.evaluation.predictions import encode_masks, instances_to_coco_json
from tests.evaluation.coco_scenes import (
    CATEGORIES,
    EXACT,
    SIGMAS,
    as_model_output,
    official,
    random_scene,
    register,
    run,
    to_results,
)

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
    add_densekit_config(cfg)
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
