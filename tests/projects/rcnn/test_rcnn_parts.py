"""R-CNN's parts: crops against a slow reference, SVM and ridge against their definitions, the store of features."""

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from densekit.d2.modeling import build_model
from densekit.engine.loading import build_with_weights
from densekit.projects.rcnn.box_ridge import BoxRidge
from densekit.projects.rcnn.crops import warp_regions
from densekit.projects.rcnn.feature_store import FeatureStore, Regions
from densekit.projects.rcnn.learning import add_to_ridge, feature_scale, learn_svms, objects_of_classes
from densekit.projects.rcnn.region_svm import HardNegativeMiner, SVMSettings, fit_svm
from tests.contract.shrinking import ROOT, shrunken
from tests.tolerances import close

needs_sklearn = pytest.mark.skipif(find_spec("sklearn") is None, reason="needs scikit-learn")


def pixel(picture, x, y):
    """Bilinear between the middles of pixels; outside the picture there are zeros."""
    channels, height, width = picture.shape
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    total = torch.zeros(channels, dtype=picture.dtype)
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        if 0 <= column < width and 0 <= row < height:
            total += picture[:, row, column] * (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
    return total


@pytest.mark.parametrize("size, context", [(8, 1), (11, 3), (6, 0)])
def test_crops_are_those_of_a_slow_reference(size, context):
    picture = torch.randn(3, 20, 30, dtype=torch.float64)
    boxes = torch.tensor(
        [[2, 3, 12, 9], [0, 0, 30, 20], [25.5, 15.25, 29.75, 20], [7, 2, 7.5, 19]], dtype=torch.float64
    )
    found = warp_regions(picture, boxes, size, context)
    for crop, (x0, y0, x1, y1) in zip(found, boxes.tolist()):
        # The frame around the box: `context` pixels of the crop are this many of the picture.
        across, down = (x1 - x0) / (size - 2 * context), (y1 - y0) / (size - 2 * context)
        for row in range(size):
            for column in range(size):
                x, y = x0 + (column + 0.5 - context) * across, y0 + (row + 0.5 - context) * down
                torch.testing.assert_close(crop[:, row, column], pixel(picture, x, y), **close(torch.float64))


def test_a_crop_of_its_own_size_is_a_copy_with_its_surroundings():
    picture = torch.randn(2, 20, 30)
    crop = warp_regions(picture, torch.tensor([[4.0, 5, 12, 13], [0, 0, 8, 8]]), 12, 2)
    torch.testing.assert_close(crop[0], picture[:, 3:15, 2:14], **close(torch.float32))
    torch.testing.assert_close(crop[1, :, 2:, 2:], picture[:, :10, :10], **close(torch.float32))
    assert max(crop[1, :, :2].abs().max(), crop[1, :, :, :2].abs().max()) < 1e-5  # beyond the picture
    with pytest.raises(ValueError, match="leaves nothing"):
        warp_regions(picture, torch.zeros(0, 4), 12, 6)


def objective(point, positives, negatives, settings):
    weight, bias = point[:-1], point[-1]
    hinge = lambda margins: np.maximum(0, 1 - margins).sum()  # noqa: E731
    losses = settings.positive_weight * hinge(positives @ weight + bias) + hinge(-(negatives @ weight + bias))
    return (weight @ weight + (bias / settings.bias_multiplier) ** 2) / 2 + settings.cost * losses


@needs_sklearn
@pytest.mark.parametrize("cost", [0.01, 0.3])
def test_an_svm_minimises_its_objective(cost):
    random = np.random.default_rng(0)
    positives, negatives = random.normal(0.7, 1, (9, 3)), random.normal(-0.5, 1, (14, 3))
    settings = SVMSettings(cost=cost)
    weight, bias = fit_svm(positives, negatives, settings)
    reached = objective(np.append(weight, bias), positives, negatives, settings)

    # The same as a quadratic program with slack variables: smooth, so that a general solver finds it.
    factors = np.repeat([settings.positive_weight, 1.0], [9, 14]) * cost
    signed = np.concatenate([positives, -negatives])
    signs = np.repeat([1.0, -1.0], [9, 14])
    cost_of = lambda v: (v[:3] @ v[:3] + (v[3] / settings.bias_multiplier) ** 2) / 2 + factors @ v[4:]  # noqa: E731
    margins = {"type": "ineq", "fun": lambda v: signed @ v[:3] + signs * v[3] - 1 + v[4:]}
    slack = {"type": "ineq", "fun": lambda v: v[4:]}
    start = np.concatenate([np.zeros(4), np.ones(23)])
    best = minimize(
        cost_of, start, constraints=[margins, slack], method="SLSQP", options={"maxiter": 500, "ftol": 1e-12}
    )
    assert best.success and reached == pytest.approx(best.fun, rel=1e-3)
    np.testing.assert_allclose(weight, best.x[:3], atol=0.02)


@needs_sklearn
def test_hard_negatives_give_the_machine_of_all_negatives():
    """Regions that mining leaves out have no loss, and so no part in the solution."""
    random = np.random.default_rng(1)
    positives = random.normal(1.2, 1, (30, 4))
    pictures = [random.normal(-1.0, 1.2, (80, 4)) for _ in range(12)]
    settings = SVMSettings(cost=0.05, refit_after=40)
    miner = HardNegativeMiner(positives, settings)
    for negatives in pictures:
        miner.visit(negatives)
    weight, bias = miner.finish()
    whole, whole_bias = fit_svm(positives, np.concatenate(pictures), settings)
    everything = np.concatenate(pictures)
    reached, best = (
        objective(np.append(*pair), positives, everything, settings) for pair in ((weight, bias), (whole, whole_bias))
    )
    assert best <= reached * 1.0001 and reached == pytest.approx(best, rel=0.03)
    held = sum(len(part) for part in miner._negatives)
    assert held < len(everything) / 2


@needs_sklearn
def test_negatives_are_those_far_from_the_class_and_classes_without_objects_are_never_found(caplog):
    boxes = np.array([[0, 0, 10, 10], [40, 40, 50, 50], [1, 0, 11, 10], [40, 41, 50, 51], [20, 20, 30, 30]], np.float32)
    features = np.array([[1, 0], [0, 1], [0.9, 0], [0, 0.9], [-1, -1]], np.float32) * 20
    picture = Regions(boxes, features, np.array([0, 1]))
    positives = objects_of_classes([picture], 3)
    assert [len(found) for found in positives] == [1, 1, 0]
    weights, biases = learn_svms([picture], positives, 1.0, SVMSettings(cost=1.0))
    scores = features @ weights.T + biases
    assert scores[0, 0] > 0.9 and scores[1, 0] < -0.9 and scores[3, 0] < 0  # the other class is background too
    assert scores[2, 0] > 0  # which overlaps its object, and so was no negative
    assert (scores[:, 2] == -20).all() and "Classes [2]" in caplog.text


class TestRidge:
    def test_it_is_the_closed_form(self):
        x, y = torch.randn(40, 5, dtype=torch.float64), torch.randn(40, 4, dtype=torch.float64) + 2
        ridge = BoxRidge(5, 3.0)
        for part in range(0, 40, 7):
            ridge.add(x[part : part + 7], y[part : part + 7])
        weight, bias = ridge.solve()
        ones = torch.cat([x, torch.ones(40, 1, dtype=torch.float64)], dim=1)
        padded = torch.cat([ones, 3.0**0.5 * torch.eye(6, dtype=torch.float64)])  # the penalty as six more equations
        answer = torch.linalg.lstsq(
            padded, torch.cat([y - y.mean(dim=0), torch.zeros(6, 4, dtype=torch.float64)])
        ).solution
        torch.testing.assert_close(weight.double(), answer[:5].T, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(bias.double(), answer[5] + y.mean(dim=0), rtol=1e-5, atol=1e-6)

    def test_whitening_the_targets_cancels_out(self):
        x, mixing = torch.randn(60, 3, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
        y = torch.randn(60, 4, dtype=torch.float64) @ mixing
        plain, white = BoxRidge(3, 10.0), BoxRidge(3, 10.0)
        plain.add(x, y)
        values, vectors = torch.linalg.eigh(torch.cov(y.T))
        whitener = vectors @ torch.diag((values + 1e-3).rsqrt()) @ vectors.T
        white.add(x, (y - y.mean(dim=0)) @ whitener)
        weight, bias = white.solve()
        back = torch.linalg.inv(whitener)
        torch.testing.assert_close(plain.solve()[0].double(), (weight.double().T @ back).T, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            plain.solve()[1].double(), bias.double() @ back + y.mean(dim=0), rtol=1e-4, atol=1e-5
        )

    def test_without_regions_boxes_stay(self):
        weight, bias = BoxRidge(3, 1.0).solve()
        assert not weight.any() and not bias.any()

    def test_each_proposal_near_an_object_teaches_the_class_of_its_object(self):
        boxes = np.array(
            [[0, 0, 10, 10], [30, 30, 40, 40], [0, 0, 10, 8], [30, 30, 40, 35], [31, 30, 41, 40]], np.float32
        )
        picture = Regions(boxes, np.eye(5, dtype=np.float32), np.array([1, 0]))
        ridges = [BoxRidge(5, 1.0) for _ in range(3)]
        add_to_ridge(ridges, picture, 2.0, lambda boxes, objects: objects - boxes)
        assert [ridge.count for ridge in ridges] == [1, 1, 0]  # the fourth overlaps by half only
        assert ridges[1]._products[2].tolist() == [0, 0, 0, 4]  # feature 1 x scale 2 x target 2


class TestStore:
    def regions(self, index):
        self.made.append(index)
        return Regions(np.full((3, 4), index, np.float32), np.full((3, 50), index, np.float32), np.array([index]))

    def test_what_is_there_is_not_made_again(self, tmp_path):
        self.made = []
        for _ in range(2):
            store = FeatureStore(tmp_path / "store", "one", 2**20)
            found = [store.get(index, self.regions) for index in range(4)]
            assert [int(regions.features[0, 0]) for regions in found] == [0, 1, 2, 3]
        assert self.made == [0, 1, 2, 3]
        FeatureStore(tmp_path / "store", "two", 2**20)
        assert [path.name for path in (tmp_path / "store").iterdir()] == ["two"]
        store.remove()
        assert not (tmp_path / "store").exists()

    def test_it_stays_below_its_limit(self, tmp_path, caplog):
        self.made = []
        limit = 9000
        for _ in range(2):
            store = FeatureStore(tmp_path / "store", "one", limit)
            for index in range(6):
                assert store.get(index, self.regions).classes.tolist() == [index]
            assert sum(path.stat().st_size for path in (tmp_path / "store").rglob("*.npz")) <= limit
        kept = len(list((tmp_path / "store").rglob("*.npz")))
        assert 0 < kept < 6 and len(self.made) == 6 + (6 - kept) and "STORE_GIB" in caplog.text


def test_features_are_scaled_to_a_mean_length_of_20():
    parts = [Regions(np.zeros((2, 4)), np.random.default_rng(k).normal(size=(2, 7)), np.zeros(0)) for k in range(3)]
    scale = feature_scale(parts)
    lengths = np.concatenate([np.linalg.norm(part.features * scale, axis=1) for part in parts])
    assert lengths.mean() == pytest.approx(20)


def test_a_classifier_gives_its_backbone(tmp_path):
    cfg = shrunken(ROOT / "configs/rcnn/rcnn_R_18_streets.yaml")
    other = cfg.clone()
    other.MODEL.META_ARCHITECTURE, other.MODEL.CLASSIFIER.NUM_CLASSES = "ImageClassifier", 3
    classifier = build_model(other)
    torch.save({"model": classifier.state_dict()}, tmp_path / "classifier.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "classifier.pth")
    found = build_with_weights(cfg).backbone.state_dict()
    for name, value in classifier.backbone.state_dict().items():
        assert torch.equal(found[name], value), name
