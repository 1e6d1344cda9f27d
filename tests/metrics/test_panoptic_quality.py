"""Panoptic quality against cases worked out by hand, a slow reading of the definition, and Cityscapes' own script."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from densekit.files.panoptic_png import rgb2id
from densekit.metrics.panoptic_quality import (
    Matching,
    Quality,
    TrueSegment,
    match_segments,
    mean_quality,
    panoptic_confusion,
    panoptic_quality,
)
from tests.panoptic_scenes import CATEGORIES, cityscapes_script, random_image


def row(*runs):
    """A map of one row: (id, length) after (id, length)."""
    return np.concatenate([np.full(length, value) for value, length in runs])[None]


def slow_matching(true_ids, truth, predicted_ids, predicted):
    """Section 4.1 and the rules for void and crowds of 4.2, one pair of masks at a time."""
    matched, missed, spurious, partners = [], [], [], set()
    void = true_ids == 0
    for key, segment in truth.items():
        if segment.is_crowd:
            continue
        for other, category in predicted.items():
            mine, theirs = true_ids == key, (predicted_ids == other) & ~void
            iou = (mine & theirs).sum() / max((mine | theirs).sum(), 1)
            if category == segment.category and iou > 0.5:
                matched.append((category, iou))
                partners.add(other)
                break
        else:
            missed.append(segment.category)
    for other, category in predicted.items():
        mask = predicted_ids == other
        harmless = void.copy()
        for key, segment in truth.items():
            if segment.is_crowd and segment.category == category:
                harmless |= true_ids == key
        if other not in partners and (mask & harmless).sum() / mask.sum() <= 0.5:
            spurious.append(category)
    return Matching(tuple(matched), tuple(missed), tuple(spurious))


def ordered(matching):
    return sorted(matching.matched), sorted(matching.missed), sorted(matching.spurious)


@pytest.mark.parametrize(
    ("true", "predicted", "matched", "missed", "spurious"),
    [
        # Equal.
        (row((1, 10)), row((5, 10)), [(7, 1.0)], [], []),
        # IoU of exactly 1/2 is no match; of 51/100 it is one.
        (row((1, 50), (0, 0), (2, 50)), row((5, 100)), [], [7, 11], [7]),
        (row((1, 51), (2, 49)), row((5, 100)), [(7, 0.51)], [11], []),
        # Void under a prediction is no part of the union: 30 of 30, though the prediction has 70 pixels.
        (row((1, 30), (0, 40)), row((5, 70)), [(7, 1.0)], [], []),
        # Void in the prediction counts against it: 60 of 100.
        (row((1, 100)), row((5, 60), (0, 40)), [(7, 0.6)], [], []),
        # More than half on void: no error. Exactly half: an error.
        (row((0, 51), (2, 49)), row((5, 100)), [], [11], []),
        (row((0, 50), (2, 50)), row((5, 100)), [], [11], [7]),
    ],
)
def test_cases_by_hand(true, predicted, matched, missed, spurious):
    truth = {key: TrueSegment({1: 7, 2: 11}[key]) for key in np.unique(true).tolist() if key}
    found = match_segments(true, truth, predicted, {5: 7})
    assert ordered(found) == (matched, missed, spurious)


@pytest.mark.parametrize(
    ("true", "category", "spurious"),
    [
        (row((3, 51), (2, 49)), 26, []),  # more than half on a crowd of its class
        (row((3, 50), (2, 50)), 26, [26]),
        (row((3, 51), (2, 49)), 24, [24]),  # a crowd of another class
        (row((3, 30), (0, 21), (2, 49)), 26, []),  # crowd and void together
        (row((3, 100)), 26, []),  # a crowd is never matched, however well
    ],
)
def test_crowds_by_hand(true, category, spurious):
    truth = {3: TrueSegment(26, is_crowd=True), 2: TrueSegment(7)}
    truth = {key: truth[key] for key in np.unique(true).tolist() if key}
    found = match_segments(true, truth, np.full(true.shape, 9), {9: category})
    assert ordered(found) == ([], [7] * (2 in truth), spurious)


def test_confusion_by_hand():
    # 1 is found under another name, 2 is missed, half of 3 is no match; 8 lies on void and counts nowhere.
    true = row((1, 10), (2, 10), (3, 10), (0, 10))
    found = row((5, 10), (0, 10), (6, 5), (7, 5), (8, 10))
    truth = {1: TrueSegment(24), 2: TrueSegment(7), 3: TrueSegment(26)}
    matching = match_segments(true, truth, found, {5: 25, 6: 26, 7: 24, 8: 24})
    assert matching.confused == ((24, 25),) and set(matching.missed) == {24, 7, 26}
    expected = np.zeros((5, 5), dtype=int)  # 7, 24, 25, 26, and none
    expected[1, 2] = expected[0, 4] = expected[3, 4] = expected[4, 3] = expected[4, 1] = 1
    same = match_segments(true, truth, true, {1: 24, 2: 7, 3: 26})
    np.testing.assert_array_equal(panoptic_confusion([matching], [7, 24, 25, 26]), expected)
    np.testing.assert_array_equal(
        panoptic_confusion([matching, same], [7, 24, 25, 26]) - expected, np.diag([1, 1, 0, 1, 0])
    )


def test_quality_by_hand():
    images = [Matching(((7, 0.8), (7, 0.6), (24, 1.0)), (7,), (7,)), Matching((), (26,), (33, 24))]
    quality = panoptic_quality(images, [7, 24, 26, 33, 11])
    expected = {
        7: (1.4 / 3, 0.7, 2 / 3),
        24: (1 / 1.5, 1.0, 1 / 1.5),
        26: (0.0, 0.0, 0.0),  # only missed
        33: (0.0, 0.0, 0.0),  # only invented
    }
    for key, values in expected.items():
        assert (quality[key].pq, quality[key].sq, quality[key].rq) == pytest.approx(values)
        assert quality[key].pq == pytest.approx(quality[key].sq * quality[key].rq)
    assert math.isnan(quality[11].pq)
    mean = mean_quality(quality.values())
    assert mean.pq == pytest.approx((1.4 / 3 + 1 / 1.5) / 4)  # classes that never occur are left out
    assert math.isnan(mean_quality([quality[11]]).sq)
    assert mean_quality([Quality(0.0, 0.0, 0.0)]).rq == 0


@pytest.mark.parametrize("seed", range(40))
def test_against_the_definition(seed):
    image = random_image(np.random.default_rng(seed), crowds=2)
    found, expected = match_segments(*image), slow_matching(*image)
    assert ordered(found)[1:] == ordered(expected)[1:]
    assert np.asarray(sorted(found.matched)) == pytest.approx(np.asarray(sorted(expected.matched)), abs=1e-12)


def test_against_the_cityscapes_script(tmp_path):
    rng = np.random.default_rng(0)
    images = [random_image(rng) for _ in range(60)]
    everything, per_class = cityscapes_script(tmp_path, images, CATEGORIES)
    quality = panoptic_quality([match_segments(*image) for image in images], list(CATEGORIES))
    for key, values in per_class.items():
        assert 0 < values["pq"] < 1  # the cases are neither trivial nor hopeless
        for name, value in values.items():
            assert getattr(quality[key], name) == pytest.approx(value, abs=1e-12)
    mean = mean_quality(quality.values())
    for name in ("pq", "sq", "rq"):
        assert getattr(mean, name) == pytest.approx(everything[name], abs=1e-12)


def test_on_coco_itself(shared_data_dir, tmp_path):
    """COCO's annotation against itself is perfect; shifted by some pixels it is what the official core says."""
    folder = shared_data_dir / "coco_panoptic_sample" / "annotations"
    content = json.loads((folder / "panoptic_val2017.json").read_text())
    images = []
    for annotation in content["annotations"]:
        ids = rgb2id(np.asarray(Image.open(folder / "panoptic_val2017" / annotation["file_name"])))
        truth = {s["id"]: TrueSegment(s["category_id"], bool(s["iscrowd"])) for s in annotation["segments_info"]}
        images.append((ids, truth, ids, {key: segment.category for key, segment in truth.items()}))
    categories = {category["id"]: category["isthing"] for category in content["categories"]}
    perfect = panoptic_quality([match_segments(*image) for image in images], list(categories))
    present = {segment.category for _, truth, _, _ in images for segment in truth.values() if not segment.is_crowd}
    assert {key: quality.pq for key, quality in perfect.items() if quality.pq == quality.pq} == dict.fromkeys(
        present, 1
    )

    shifted = [(ids, truth, np.roll(ids, (9, 12), (0, 1)), predicted) for ids, truth, _, predicted in images]
    everything, _ = cityscapes_script(tmp_path, shifted, categories)
    quality = panoptic_quality([match_segments(*image) for image in shifted], list(categories))
    assert 0.1 < everything["pq"] < 0.9
    assert mean_quality(quality.values()).pq == pytest.approx(everything["pq"], abs=1e-12)


def test_contradictions_are_refused():
    ids = np.array([[1, 2]])
    truth = {1: TrueSegment(7), 2: TrueSegment(7)}
    with pytest.raises(ValueError, match=r"\(1, 2\).*\(2, 1\)"):
        match_segments(ids, truth, ids.T, {1: 7, 2: 7})
    with pytest.raises(ValueError, match=r"\[2\].*no category"):
        match_segments(ids, truth, ids, {1: 7})
    with pytest.raises(ValueError, match=r"\[4\].*no pixel"):
        match_segments(ids, truth, ids, {1: 7, 2: 7, 4: 7})
