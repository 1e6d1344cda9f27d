"""COCOPanopticEvaluator: its numbers, its files, and what it refuses."""

import json
import math

import numpy as np
import pytest
import torch

from densekit.d2.data import MetadataCatalog
from densekit.evaluation import COCOPanopticEvaluator
from densekit.evaluation.panoptic_truth import PanopticTruth
from densekit.files.panoptic_png import read_panoptic_png, write_panoptic_png
from densekit.metrics.panoptic_quality import TrueSegment
from tests.panoptic_scenes import CATEGORIES, annotation, official_quality, random_image

THINGS = [key for key, thing in CATEGORIES.items() if thing]
STUFF = [key for key, thing in CATEGORIES.items() if not thing]


def register(folder, images, name="tiny", stuff=None):
    """Writes the ground truth of random scenes and registers it."""
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    for number, (ids, *_) in enumerate(images):
        write_panoptic_png(folder / "truth" / f"{number}.png", ids)
    content = {
        "images": [{"id": k, "file_name": f"{k}.jpg", "height": 30, "width": 40} for k in range(len(images))],
        "annotations": [annotation(k, image[0], image[1]) for k, image in enumerate(images)],
        "categories": [{"id": key, "name": f"class {key}", "isthing": thing} for key, thing in CATEGORIES.items()],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    MetadataCatalog.get(name).set(
        panoptic_json=str(folder / "truth.json"),
        panoptic_root=str(folder / "truth"),
        label_divisor=1000,
        thing_dataset_id_to_contiguous_id={key: k for k, key in enumerate(THINGS)},
        stuff_dataset_id_to_contiguous_id=stuff or {0: 0} | {key: k for k, key in enumerate(STUFF, start=1)},
    )
    return name


def as_model_output(ids, predicted):
    """What PanopticFPN says: contiguous classes, counted for things and for stuff."""
    segments = []
    for key, category in predicted.items():
        thing = bool(CATEGORIES[category])
        label = THINGS.index(category) if thing else STUFF.index(category) + 1
        segments.append({"id": key, "isthing": thing, "category_id": label, **({"score": 0.5} if thing else {})})
    return {"panoptic_seg": (torch.from_numpy(ids).int(), segments)}


def run(evaluator, outputs):
    evaluator.reset()
    for k, output in enumerate(outputs):
        evaluator.process([{"image_id": k, "file_name": f"/images/{k}.jpg"}], [output])
    return evaluator.evaluate()


@pytest.fixture
def scenes():
    rng = np.random.default_rng(0)
    return [random_image(rng) for _ in range(20)]


def test_numbers_are_those_of_the_official_code_on_the_files_that_are_kept(scenes, tmp_path):
    evaluator = COCOPanopticEvaluator(register(tmp_path, scenes), str(tmp_path / "out"))
    results = run(evaluator, [as_model_output(*image[2:]) for image in scenes])["panoptic_seg"]

    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert {key: written[key] for key in ("images", "categories")} == {
        key: truth[key] for key in ("images", "categories")
    }
    pairs = list(zip(truth["annotations"], written["annotations"]))
    assert [(a["image_id"], a["image_id"]) for a, _ in pairs] == [(p["image_id"], a["image_id"]) for a, p in pairs]
    for ending, isthing in (("", None), ("_th", True), ("_st", False)):
        mean, per_class = official_quality(
            pairs, tmp_path / "truth", tmp_path / "out" / "panoptic", CATEGORIES, isthing
        )
        for name in ("pq", "sq", "rq"):
            assert results[f"{name.upper()}{ending}"] == pytest.approx(100 * mean[name], abs=1e-9)
            for key, values in per_class.items():
                assert results[f"{name.upper()}-class {key}"] == pytest.approx(100 * values[name], abs=1e-9)
    for _, prediction in pairs:
        ids = read_panoptic_png(tmp_path / "out" / "panoptic" / prediction["file_name"])
        areas = dict(zip(*(part.tolist() for part in np.unique(ids[ids > 0], return_counts=True))))
        assert {segment["id"]: segment["area"] for segment in prediction["segments_info"]} == areas
        for segment in prediction["segments_info"]:
            assert ("score" in segment) == bool(CATEGORIES[segment["category_id"]])


def test_the_truth_is_perfect_and_what_is_not_there_is_undefined(tmp_path):
    """Stuff alone: the official code divides by the number of thing classes, zero."""
    ids = np.zeros((30, 40), np.int64)
    ids[:10], ids[10:20] = 5, 9
    truth = {5: TrueSegment(7), 9: TrueSegment(11)}
    scene = (ids, truth, ids, {5: 7, 9: 11})
    results = run(COCOPanopticEvaluator(register(tmp_path, [scene])), [as_model_output(*scene[2:])])["panoptic_seg"]
    assert results["PQ"] == results["SQ"] == results["RQ_st"] == results["PQ-class 7"] == 100
    assert math.isnan(results["PQ_th"]) and math.isnan(results["PQ-class 24"]) and math.isnan(results["SQ-class 21"])


def test_ids_may_hold_the_class(tmp_path):
    """A map of class * label_divisor + instance with -1 for void says the same as a list of segments."""
    ids = np.zeros((30, 40), np.int64)
    ids[:10, :20], ids[:10, 20:], ids[15:] = 3, 4, 8
    truth = {3: TrueSegment(26), 4: TrueSegment(26), 8: TrueSegment(11)}
    combined = np.full(ids.shape, -1)
    for key, value in {3: 1 * 1000 + 1, 4: 1 * 1000 + 2, 8: 4 * 1000}.items():
        combined[ids == key] = value
    # One numbering for both kinds, as such models have: the stuff class 11 is 4.
    name = register(tmp_path, [(ids, truth, None, None)], stuff={7: 3, 11: 4, 21: 5})
    evaluator = COCOPanopticEvaluator(name, str(tmp_path / "out"))
    results = run(evaluator, [{"panoptic_seg": (torch.from_numpy(combined), None)}])["panoptic_seg"]
    assert results["PQ"] == 100 and results["PQ_th"] == 100 and results["PQ_st"] == 100
    assert (read_panoptic_png(tmp_path / "out" / "panoptic" / "0.png") == 0).sum() == 5 * 40


def test_a_model_may_give_the_categories_of_the_data_set(tmp_path):
    ids = np.full((30, 40), 6)
    scene = (ids, {6: TrueSegment(33)}, None, None)
    output = {"panoptic_seg": (torch.from_numpy(ids), [{"id": 6, "category_id": 33}, {"id": 7, "category_id": 24}])}
    results = run(COCOPanopticEvaluator(register(tmp_path, [scene])), [output])["panoptic_seg"]
    assert results["PQ"] == 100  # and the segment without a pixel is no error


def test_missing_images_are_named(scenes, tmp_path):
    evaluator = COCOPanopticEvaluator(register(tmp_path, scenes))
    outputs = [as_model_output(*image[2:]) for image in scenes]
    outputs[3] = outputs[11] = {}
    with pytest.raises(ValueError, match=r"2 images of .*truth.json have no prediction: 3, 11\."):
        run(evaluator, outputs)


def test_a_model_without_panoptic_output_has_no_quality(scenes, tmp_path, caplog):
    assert run(COCOPanopticEvaluator(register(tmp_path, scenes)), [{} for _ in scenes]) == {}
    assert "No output with 'panoptic_seg'" in caplog.text


def test_repeated_images_count_once(scenes, tmp_path):
    evaluator = COCOPanopticEvaluator(register(tmp_path, scenes))
    outputs = [as_model_output(*image[2:]) for image in scenes]
    once = run(evaluator, outputs)
    evaluator.process([{"image_id": 4}], [outputs[4]])
    assert evaluator.evaluate() == once


@pytest.mark.parametrize(
    ("segment", "ids", "message"),
    [
        ({"id": 1, "isthing": True, "category_id": 9}, (30, 40), r"Image 0 .*thing class 9.*\[0, 1, 2\]"),
        ({"id": 2, "isthing": True, "category_id": 0}, (30, 40), r"Segments \[1\] are in the predicted map"),
        ({"id": 1, "isthing": True, "category_id": 0}, (15, 20), r"\(30, 40\).*\(15, 20\)"),
    ],
)
def test_predictions_that_contradict(scenes, tmp_path, segment, ids, message):
    evaluator = COCOPanopticEvaluator(register(tmp_path, scenes))
    output = {"panoptic_seg": (torch.ones(ids, dtype=torch.int32), [segment])}
    with pytest.raises(ValueError, match=message):
        evaluator.process([{"image_id": 0}], [output])
    with pytest.raises(ValueError, match="no annotation of image 99"):
        evaluator.process([{"image_id": 99}], [output])


def test_ground_truth_that_is_not_there(scenes, tmp_path):
    with pytest.raises(ValueError, match=r"'nothing' names no panoptic annotation"):
        COCOPanopticEvaluator("nothing")
    name = register(tmp_path, scenes)
    truth = PanopticTruth.of(name)
    (tmp_path / "truth" / "2.png").write_bytes((tmp_path / "truth" / "2.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"2.png cannot be read"):
        truth.ids(2)
    (tmp_path / "truth" / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"2.png"):
        truth.ids(2)


def test_coco_against_itself(shared_data_dir, tmp_path):
    """Every class that is not a crowd alone has 100, and the files are those of the ground truth."""
    folder = shared_data_dir / "coco_panoptic_sample" / "annotations"
    source = folder / "panoptic_val2017.json"
    MetadataCatalog.get("sample").set(panoptic_json=str(source), panoptic_root=str(folder / "panoptic_val2017"))
    evaluator = COCOPanopticEvaluator("sample", str(tmp_path))
    truth = PanopticTruth.of("sample")
    images = {image_id: truth.segments(image_id) for image_id in truth.file.annotations}
    for image_id, annotated in images.items():
        segments = [{"id": key, "category_id": segment.category} for key, segment in annotated.items()]
        evaluator.process(
            [{"image_id": image_id}], [{"panoptic_seg": (torch.from_numpy(truth.ids(image_id)), segments)}]
        )
    results = evaluator.evaluate()["panoptic_seg"]
    assert results["PQ"] == results["PQ_th"] == results["PQ_st"] == 100
    present = {(s.category, s.is_crowd) for annotated in images.values() for s in annotated.values()}
    crowds_alone = [category for category, is_crowd in present if is_crowd and (category, False) not in present]
    for key in crowds_alone:
        assert math.isnan(results[f"PQ-{truth.file.categories[key]['name']}"])
    for image_id in images:
        assert np.array_equal(read_panoptic_png(tmp_path / "panoptic" / truth.png_name(image_id)), truth.ids(image_id))
