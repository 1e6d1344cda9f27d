"""Boundary F1 of classes: known values and distances by brute force."""

import math

import numpy as np
import pytest

from densekit.metrics.contours import contour_f, contour_tolerance, count_contours
from densekit.metrics.semantic_scores import count_pixels
from densekit.metrics.semantic_tally import SemanticTally


def random_maps(seed, shape=(36, 50), classes=4, ignore=255):
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, classes, (6, 10)), np.ones((6, 5), int))
    predicted = np.roll(truth, rng.integers(-3, 4, 2), (0, 1))
    noise = rng.random(shape) < 0.02
    predicted[noise] = rng.integers(-1, classes, noise.sum())  # -1: no class
    truth[rng.random(shape) < 0.01] = ignore
    truth[20:26, 5:30] = ignore
    return predicted, truth.astype(np.uint8)


def boundary(labels, ignored, c):
    """(row, column) of the pixels of class c with a neighbour that is none, or does not count."""
    found = []
    for y, x in np.ndindex(labels.shape):
        if ignored[y, x] or labels[y, x] != c:
            continue
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= v < labels.shape[0] and 0 <= u < labels.shape[1]
            if inside and (ignored[v, u] or labels[v, u] != c):
                found.append((y, x))
                break
    return found


def met(points, others, reach):
    return sum(any(math.dist(point, other) <= reach for other in others) for point in points)


@pytest.mark.parametrize(("seed", "share"), [(0, 0.0075), (1, 0.03), (2, 0.05), (3, 0.08)])
def test_counts_against_all_distances(seed, share):
    predicted, truth = random_maps(seed)
    ours = count_contours(predicted, truth, 4, 255, share)
    reach = max(1.0, share * math.hypot(*truth.shape))
    partly = 0
    for c in range(4):
        true, found = (boundary(labels, truth == 255, c) for labels in (truth, predicted))
        expected = [len(true), met(true, found, reach), len(found), met(found, true, reach)]
        assert ours[:, c].tolist() == expected
        partly += 0 < expected[3] < expected[2]
    assert partly or seed == 3


def test_a_shift_counts_up_to_the_tolerance():
    """Two vertical strips whose border is 3 pixels off: met at a tolerance of 3, not below."""
    truth, predicted = np.zeros((2, 80, 100), np.uint8)
    truth[:, 50:] = predicted[:, 53:] = 1
    diagonal = math.hypot(80, 100)
    # The columns on both sides of a border are boundaries, of one class each.
    assert count_contours(predicted, truth, 2, 255, 3 / diagonal + 1e-9).tolist() == [[80, 80]] * 4
    assert count_contours(predicted, truth, 2, 255, 2.9 / diagonal).tolist() == [[80, 80], [0, 0], [80, 80], [0, 0]]
    assert count_contours(truth, truth, 2, 255).tolist() == [[80, 80]] * 4


def test_the_tolerance_is_three_quarters_of_a_percent_of_the_diagonal():
    assert contour_tolerance(360, 480) == pytest.approx(4.5)
    assert contour_tolerance(20, 20) == 1.0


def test_pixels_that_do_not_count_hide_what_is_predicted_there():
    truth = np.zeros((40, 60), np.uint8)
    truth[:, 30:], truth[10:30, 5:25] = 1, 255
    predicted = truth.copy()
    predicted[truth == 255] = 0
    clean = count_contours(predicted, truth, 2, 255)
    predicted[12:28, 7:23] = 1
    assert np.array_equal(count_contours(predicted, truth, 2, 255), clean)
    assert np.array_equal(clean[0], clean[1]) and np.array_equal(clean[2], clean[3])


def test_f1_by_hand():
    counts = np.array([[10, 4, 0, 0, 8], [5, 0, 0, 0, 8], [20, 6, 0, 3, 8], [20, 0, 0, 0, 8]])
    scores = contour_f(counts)
    assert scores[[0, 1, 3, 4]] == pytest.approx([2 * 0.5 * 1 / 1.5, 0, 0, 1]) and math.isnan(scores[2])


def test_a_tally_is_the_means_of_its_images():
    tally, f1, images = SemanticTally(4), [], []
    whole = np.zeros((5, 4), int)
    for seed in range(6):
        predicted, truth = random_maps(seed)
        truth[truth == 3] = 255  # predicted and never annotated
        if seed % 2:
            truth[truth == 2], predicted[predicted == 2] = 1, 1
        pixels, contours = count_pixels(predicted, truth, 4, 255), count_contours(predicted, truth, 4, 255)
        one = tally.add(pixels, contours)
        whole += pixels
        f1.append(contour_f(contours))
        images.append([(truth == c).any() for c in range(4)])
        assert one.boundary_f == pytest.approx(np.nanmean(f1[-1]))
        counted = truth != 255
        assert one.pixel_accuracy == pytest.approx((predicted == truth)[counted].mean())
        assert one.classes == sorted(set(predicted[counted].tolist() + truth[counted].tolist()) - {-1})
        pairs = {
            (t, p): ((truth == t) & (predicted == (p if p < 4 else -1))).sum()
            for t in range(4) for p in range(5) if p != t
        }  # fmt: skip
        assert pairs[one.lost] == max(pairs.values())
        assert one.lost_share == pytest.approx(max(pairs.values()) / counted.sum())
    values, mean = tally.boundary_f
    assert values[:3] == pytest.approx(np.nanmean(f1, axis=0)[:3]) and math.isnan(values[3])
    assert np.isnan(f1)[1, 2] and mean == pytest.approx(values[:3].mean())
    assert np.array_equal(tally.confusion, whole.T) and np.array_equal(tally.pixels, whole.sum(axis=0))
    assert tally.images.tolist() == np.sum(images, axis=0).tolist() and tally.images[3] == 0


def test_a_perfect_image_has_lost_nothing():
    truth = random_maps(0)[1]
    one = SemanticTally(4).add(count_pixels(np.where(truth == 255, 0, truth), truth, 4, 255))
    assert one.lost is None and one.lost_share == 0 and one.mean_iou == 1 and math.isnan(one.boundary_f)
