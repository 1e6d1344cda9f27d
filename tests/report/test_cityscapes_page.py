"""The page about evaluations in Cityscapes' form: its fates, numbers and confusion are the benchmark's."""

import json
import re

import cityscapes_scenes as scenes
import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest

from densekit.d2.data import DatasetCatalog
from densekit.data.cityscapes import cityscapes_entries
from densekit.data.cityscapes_panoptic import cityscapes_panoptic_entries
from densekit.data.registry import register
from densekit.engine.writers import write_results
from densekit.evaluation.cityscapes.frames import ground_truth
from densekit.evaluation.cityscapes.instance_scores import OBJECT_LABELS, SMALLEST, match_frame
from densekit.metrics.panoptic_quality import panoptic_confusion
from densekit.report.cityscapes_instances import read_cityscapes_instances
from densekit.report.evaluation_page import evaluation_page
from densekit.report.panoptic import read_panoptic
from densekit.report.run_files import read_run

NAME = "tree_fine_panoptic_val"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return scenes.make_tree(tmp_path_factory.mktemp("tree"), frames=6)


@pytest.fixture
def run(tree, tmp_path, restore_catalogs):
    """OUTPUT_DIR of an evaluation of spoiled instances and panoptic segments."""
    for entry in cityscapes_panoptic_entries("tree_fine_panoptic", str(tree), ["val"]):
        register(entry)
    folder, results = tmp_path / "run/inference" / NAME, {}
    for kind in ("instances", "panoptic"):
        make, spoil = scenes.EVALUATORS[kind]
        evaluator = make(tree, folder)
        for item in scenes.images(tree):
            evaluator.process([item], [{scenes.OUTPUTS[kind]: spoil(item)}])
        results |= evaluator.evaluate()
    write_results(tmp_path / "run/inference/results.json", {NAME: results})
    return tmp_path / "run"


def test_fates_of_masks_are_the_benchmarks(run, tree):
    files = read_run(run, None)
    instances = read_cityscapes_instances(files, DatasetCatalog.get(NAME))
    truth = ground_truth(tree / "gtFine/val", "instanceIds")
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


def test_masks_are_kept_pixel_by_pixel(run, tree):
    instances = read_cityscapes_instances(read_run(run, None), DatasetCatalog.get(NAME))
    truth = ground_truth(tree / "gtFine/val", "instanceIds")
    for image in instances.images:
        ids = cv2.imread(str(truth[scenes.frame(image.path)]), cv2.IMREAD_UNCHANGED)
        things = [value for value in np.unique(ids) if (value // 1000 if value >= 1000 else value) in OBJECT_LABELS]
        assert len(things) == len(image.truth)
        for value, entry in zip(things, image.truth):
            assert (mask_utils.decode(entry["segmentation"]) == (ids == value)).all()
            assert mask_utils.toBbox(entry["segmentation"]).tolist() == entry["bbox"]


def test_rows_and_columns_of_the_confusion_are_the_segments_that_count(run):
    panoptic = read_panoptic(read_run(run, None), DatasetCatalog.get(NAME))
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


def test_the_page_has_both_galleries_and_confusions(run):
    text = evaluation_page(read_run(run, None), 2)
    assert text.count('class="gallery"') == 2 and text.count('class="confusion"') == 2
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data = json.loads(found[1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert data["classes"]["instances"] == list(OBJECT_LABELS.values()) and not data["instances"]["recall"]
    results = json.loads((run / "inference/results.json").read_text())[NAME]
    assert f"<dd>{results['panoptic_seg']['PQ']:.1f}</dd>" in text and f"<dd>{results['segm']['AP']:.1f}</dd>" in text
    assert 'id="recall"' not in text and 'id="calibration"' in text


def test_an_evaluation_of_instances_alone_and_a_missing_frame(run, tree):
    for entry in cityscapes_entries("tree_fine", str(tree), "gtFine", ["val"]):
        register(entry)
    folder = run / "inference"
    (folder / NAME).rename(folder / "tree_fine_instance_seg_val")
    assert 'data-kind="instances"' in evaluation_page(read_run(run, None), 2)
    lost = next((folder / "tree_fine_instance_seg_val/instances").glob("*_pred.txt"))
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=lost.name):
        evaluation_page(read_run(run, None), 2)
