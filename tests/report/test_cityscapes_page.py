"""The page about evaluations in Cityscapes' form: its fates, numbers and confusion are the benchmark's."""

import json
import re

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest

from densekit.d2.data import DatasetCatalog
from densekit.data.cityscapes import cityscapes_entries
from densekit.data.registry import register
from densekit.evaluation.cityscapes.frames import ground_truth
from densekit.evaluation.cityscapes.instance_scores import OBJECT_LABELS, SMALLEST, Outcome, average_frames, match_frame
from densekit.metrics.panoptic_quality import panoptic_confusion
from densekit.report.cityscapes_instances import benchmark_scores, read_cityscapes_instances
from densekit.report.evaluation_page import evaluation_page
from densekit.report.instance_page import instances_data
from densekit.report.panoptic_page import read_panoptic
from densekit.report.run_files import read_run
from tests import cityscapes_scenes as scenes

NAME = "tree_fine_panoptic_val"


def test_fates_of_masks_are_the_benchmarks(city_run, city_tree):
    files = read_run(city_run, None)
    instances = read_cityscapes_instances(files, DatasetCatalog.get(NAME))
    truth = ground_truth(city_tree / "gtFine/val", "instanceIds")
    seen = np.zeros(3, dtype=int)
    for image in instances.images:
        frame = scenes.frame(image.path)
        listing = files.inference / "instances" / f"{frame}_pred.txt"
        outcomes = match_frame(listing, truth[frame], np.array([0.5]), SMALLEST)
        matches = image.matches
        for number, label_id in enumerate(OBJECT_LABELS):
            here = np.argsort(-matches.scores, kind="stable")
            here = here[matches.classes[here] == number]
            assert matches.fate[here].tolist() == outcomes[label_id].states[0].tolist()
            counted = (matches.true_classes == number) & ~matches.ignored
            assert counted.sum() == outcomes[label_id].objects
        seen += [(matches.fate == fate).sum() for fate in (-1, 0, 1)]
    assert seen.all()  # the scenes have masks of every fate


def area(curve):
    precision = np.array(curve["precision"])
    recall = np.array(curve.get("recall", np.linspace(0, 1, len(precision))))
    return 50 * (np.diff(recall) * (precision[1:] + precision[:-1])).sum()


def test_areas_below_the_curves_are_the_average_precisions_of_the_script(city_run, city_tree, tmp_path):
    files = read_run(city_run, None)
    scenes.run_script("evalInstanceLevelSemanticLabeling", tmp_path / "cli", city_tree, files.inference / "instances")
    theirs = scenes.exported(city_tree, "resultInstanceLevelSemanticLabeling")["averages"]
    instances = read_cityscapes_instances(files, DatasetCatalog.get(NAME))
    curves = instances_data(instances)["recall"]["segm"]
    middling = 0
    for number, name in enumerate(OBJECT_LABELS.values()):
        half, _, mean = curves.get(str(number), [None] * 3)
        ap, ap50 = (100 * theirs["classes"][name][key] for key in ("ap", "ap50%"))
        if half is None:
            assert np.isnan(ap50)  # no object of the class
            continue
        assert half["area"] == pytest.approx(ap50, abs=1e-4) and mean["area"] == pytest.approx(ap, abs=1e-4)
        assert area(half) == pytest.approx(ap50, abs=0.2)  # the script's trapezoids below what is drawn
        assert area(mean) == pytest.approx(ap, abs=1.5)  # at 101 recalls, which cut corners of so few masks
        middling += 5 < ap50 < 95
    assert middling >= 3
    assert curves["all"][0]["area"] == pytest.approx(100 * theirs["allAp50%"], abs=1e-4)
    assert curves["all"][2]["area"] == pytest.approx(100 * theirs["allAp"], abs=1e-4)


def test_a_curve_keeps_its_area_with_few_of_many_points():
    rng = np.random.default_rng(0)
    scores = np.sort(rng.random(20_000))[::-1]
    outcome = Outcome(scores, np.tile(rng.random(20_000) < scores, (10, 1)).astype(int), 12_000)
    frames = [dict.fromkeys(OBJECT_LABELS, outcome)]
    [half, _, mean] = benchmark_scores(frames).curves["0"]
    assert len(half.precision) < 600
    exact = 100 * average_frames(frames)["averages"]["classes"]["person"]["ap50%"]
    assert area({"precision": half.precision, "recall": half.recall}) == pytest.approx(exact, abs=0.05)
    assert area({"precision": mean.precision}) == pytest.approx(exact, abs=0.5)


def test_masks_are_kept_pixel_by_pixel(city_run, city_tree):
    instances = read_cityscapes_instances(read_run(city_run, None), DatasetCatalog.get(NAME))
    truth = ground_truth(city_tree / "gtFine/val", "instanceIds")
    for image in instances.images:
        ids = cv2.imread(str(truth[scenes.frame(image.path)]), cv2.IMREAD_UNCHANGED)
        things = [value for value in np.unique(ids) if (value // 1000 if value >= 1000 else value) in OBJECT_LABELS]
        assert len(things) == len(image.truth)
        for value, entry in zip(things, image.truth):
            assert (mask_utils.decode(entry["segmentation"]) == (ids == value)).all()
            assert mask_utils.toBbox(entry["segmentation"]).tolist() == entry["bbox"]


def test_rows_and_columns_of_the_confusion_are_the_segments_that_count(city_run):
    panoptic = read_panoptic(read_run(city_run, None), DatasetCatalog.get(NAME))
    categories = list(panoptic.classes)
    counts = panoptic_confusion((image.matching for image in panoptic.images), categories)
    for number, key in enumerate(categories):
        matched = sum(category == key for image in panoptic.images for category, _ in image.matching.matched)
        missed = sum(category == key for image in panoptic.images for category in image.matching.missed)
        spurious = sum(category == key for image in panoptic.images for category in image.matching.spurious)
        assert counts[number, number] == matched
        assert counts[number].sum() == matched + missed and counts[:, number].sum() == matched + spurious
    off = counts[:-1, :-1] - np.diag(np.diag(counts[:-1, :-1]))
    assert off.sum() > 2 and counts[-1].any() and counts[:, -1].any()


def test_the_page_has_both_galleries_and_confusions(city_run):
    text = evaluation_page(read_run(city_run, None), 2)
    assert text.count('class="gallery"') == 2 and text.count('class="confusion"') == 2
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data = json.loads(found[1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert data["classes"]["instances"] == list(OBJECT_LABELS.values())
    assert set(data["instances"]["recall"]) == {"segm"} and "all" in data["instances"]["recall"]["segm"]
    results = json.loads((city_run / "inference/results.json").read_text())[NAME]
    assert f"<dd>{results['panoptic_seg']['PQ']:.1f}</dd>" in text and f"<dd>{results['segm']['AP']:.1f}</dd>" in text
    assert 'id="recall"' in text and 'id="calibration"' in text and 'class="alert"' not in text


def test_an_evaluation_of_instances_alone_and_a_missing_frame(city_run, city_tree):
    for entry in cityscapes_entries("tree_fine", str(city_tree), "gtFine", ["val"]):
        register(entry)
    folder = city_run / "inference"
    (folder / NAME).rename(folder / "tree_fine_instance_seg_val")
    assert 'data-kind="instances"' in evaluation_page(read_run(city_run, None), 2)
    lost = next((folder / "tree_fine_instance_seg_val/instances").glob("*_pred.txt"))
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=lost.name):
        evaluation_page(read_run(city_run, None), 2)
