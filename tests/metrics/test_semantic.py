"""Scores of semantic segmentation and boundaries: known values and slow readings of the definitions."""

import math

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask

from densekit.metrics.boundary import boundary_pixels, boundary_width
from densekit.metrics.semantic_scores import boundary_iou, count_boundaries, count_pixels, semantic_scores


def random_maps(seed, shape=(40, 50), classes=5, ignore=255):
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, classes, (8, 10)), np.ones((5, 5), int)).astype(np.uint8)
    predicted = np.roll(truth, rng.integers(-3, 4, 2), (0, 1))
    predicted[rng.random(shape) < 0.05] = rng.integers(classes)
    truth[rng.random(shape) < 0.1] = ignore
    return predicted, truth


def slow_scores(predicted, truth, classes, ignore):
    """Pixel by pixel, from the definitions."""
    scores, total = {}, 0
    for c in range(classes):
        both = union = annotated = 0
        for p, t in zip(predicted.ravel().tolist(), truth.ravel().tolist()):
            if t != ignore:
                both += p == c and t == c
                union += p == c or t == c
                annotated += t == c
        scores[c] = (both, union, annotated)
        total += annotated
    present = {c: s for c, s in scores.items() if s[2]}
    return {
        "mean_iou": np.mean([b / u for b, u, _ in present.values()]),
        "frequency_weighted_iou": sum(b / u * a / total for b, u, a in present.values()),
        "mean_accuracy": np.mean([b / a for b, _, a in present.values()]),
        "pixel_accuracy": sum(b for b, _, _ in present.values()) / total,
    }


def slow_boundary(mask, depth):
    """A pixel of the mask with something else, or the outside, within `depth` rows and columns."""
    height, width = mask.shape
    marked = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        for v in range(y - depth, y + depth + 1):
            for u in range(x - depth, x + depth + 1):
                marked[y, x] |= not (0 <= v < height and 0 <= u < width) or not mask[v, u]
    return marked


@pytest.mark.parametrize("seed", range(5))
def test_scores_against_the_definitions(seed):
    predicted, truth = random_maps(seed, classes=5)
    truth[truth == 3] = 255  # a class that is predicted and never annotated
    scores = semantic_scores(count_pixels(predicted, truth, 5, 255))
    for name, value in slow_scores(predicted, truth, 5, 255).items():
        assert getattr(scores, name) == pytest.approx(value, abs=1e-12)
    assert math.isnan(scores.iou[3]) and math.isnan(scores.accuracy[3])


def test_scores_by_hand():
    truth = np.array([[0, 0, 0, 0, 1, 1, 9, 9]])
    predicted = np.array([[0, 0, 0, 1, 1, 2, 2, 0]])
    scores = semantic_scores(count_pixels(predicted, truth, 3, 9))
    assert scores.iou[:2].tolist() == pytest.approx([3 / 4, 1 / 3])
    assert scores.accuracy[:2].tolist() == pytest.approx([3 / 4, 1 / 2])
    assert scores.frequency_weighted_iou == pytest.approx(3 / 4 * 4 / 6 + 1 / 3 * 2 / 6)
    assert scores.pixel_accuracy == pytest.approx(4 / 6)


def test_nothing_annotated_is_undefined():
    scores = semantic_scores(count_pixels(np.zeros((2, 2), int), np.full((2, 2), 255), 3, 255))
    assert all(math.isnan(value) for value in (scores.mean_iou, scores.frequency_weighted_iou, scores.pixel_accuracy))
    assert math.isnan(boundary_iou(np.zeros((3, 4), int))[1])


def test_values_that_are_no_class_are_refused():
    good = np.zeros((2, 3), int)
    with pytest.raises(ValueError, match=r"annotated map holds the values \[-1, 7\]"):
        count_pixels(good, np.array([[0, 7, -1], [0, 1, 255]]), 3, 255)
    with pytest.raises(ValueError, match=r"predicted map holds the values \[3\]"):
        count_pixels(good + 3, good, 3, 255)
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        count_pixels(good.T, good, 3, 255)


@pytest.mark.parametrize("shape", [(40, 50), (120, 90), (3, 200)])
def test_boundaries_against_the_definition(shape):
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 3, (-(-shape[0] // 20), -(-shape[1] // 25)))
    labels = np.kron(cells, np.ones((20, 25), int))[: shape[0], : shape[1]].astype(np.uint8)
    depth = boundary_width(*shape)
    marked = boundary_pixels(labels)
    assert np.array_equal(boundary_pixels(labels.astype(np.uint16) * 300), marked)
    for label in range(3):
        mask = labels == label
        assert np.array_equal(marked & mask, slow_boundary(mask, depth))
        assert np.array_equal(boundary_pixels(mask) & mask, slow_boundary(mask, depth))


def test_boundaries_are_those_of_the_coco_code():
    rng = np.random.default_rng(1)
    for _ in range(20):
        height, width = rng.integers(20, 300, 2)
        rows, columns = np.mgrid[:height, :width]
        y, x, a, b = rng.integers(0, height), rng.integers(0, width), *rng.integers(5, 150, 2)
        mask = (((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1).astype(np.uint8)
        official = coco_mask.rleToBoundary(coco_mask.encode(np.asfortranarray(mask)))
        assert np.array_equal(coco_mask.decode(official), boundary_pixels(mask) & mask.astype(bool))


def test_depth_is_two_percent_of_the_diagonal():
    assert boundary_width(1024, 2048) == round(0.02 * math.sqrt(1024**2 + 2048**2)) == 46
    assert boundary_width(8, 8) == 1
    assert boundary_width(300, 400, dilation_ratio=0.05) == 25


def test_boundary_iou_against_the_definition():
    predicted, truth = random_maps(3, classes=4)
    expected, depth = [], boundary_width(*truth.shape)
    for label in range(4):
        there = slow_boundary(truth == label, depth)
        here = slow_boundary(predicted == label, depth) & (truth != 255)
        expected.append((there & here).sum() / (there | here).sum())
    iou, mean = boundary_iou(count_boundaries(predicted, truth, 4, 255))
    assert iou == pytest.approx(np.array(expected), abs=1e-12)
    assert mean == pytest.approx(np.mean(expected), abs=1e-12)


def test_boundary_iou_sees_what_iou_does_not():
    """A large square that is one pixel too large: hardly any IoU is lost, much of the boundary is."""
    truth, predicted = np.zeros((2, 100, 100), np.uint8)
    truth[20:80, 20:80] = predicted[19:81, 19:81] = 1
    iou = semantic_scores(count_pixels(predicted, truth, 2, 255)).iou[1]
    boundary = boundary_iou(count_boundaries(predicted, truth, 2, 255))[0][1]
    assert iou == pytest.approx(60**2 / 62**2)
    # Boundaries are three pixels deep: rings of 60^2 - 54^2 and 62^2 - 56^2, of which 60^2 - 56^2 are common.
    common, here, there = 60**2 - 56**2, 60**2 - 54**2, 62**2 - 56**2
    assert boundary == pytest.approx(common / (here + there - common))
    same, _ = boundary_iou(count_boundaries(truth, truth, 2, 255))
    assert same.tolist() == [1, 1]
