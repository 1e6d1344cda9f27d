"""Losses of pixels against slow readable references, and the one rule for batches with nothing to learn."""

import math

import pytest
import torch
import torch.nn.functional as F

from densekit.layers.pixel_losses import (
    TERMS,
    PixelLoss,
    dice_loss,
    hard_cross_entropy,
    lovasz_softmax,
    mean_cross_entropy,
)

IGNORE = 255
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)


@pytest.fixture
def batch():
    """Scores (2, 4, 5, 6) and labels of which a fifth is ignored; class 3 is not shown."""
    generator = torch.Generator().manual_seed(3)
    scores = 2 * torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 5, 6), generator=generator)
    labels[torch.rand(2, 5, 6, generator=generator) < 0.2] = IGNORE
    return scores, labels


def pixels(scores, labels):
    """(probabilities, class) of every labelled pixel."""
    probabilities = scores.softmax(dim=1).movedim(1, -1).reshape(-1, scores.shape[1])
    return [(p, int(c)) for p, c in zip(probabilities, labels.reshape(-1)) if c != IGNORE]


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_torch_s(batch, weights):
    scores, labels = batch
    ours = mean_cross_entropy(scores, labels, IGNORE, weights)
    torch.testing.assert_close(ours, F.cross_entropy(scores, labels, weights, ignore_index=IGNORE))


@pytest.mark.parametrize("threshold, kept", [(0.9, 1000), (0.3, 5), (0.05, 12), (0.05, 1000), (0.0, 0)])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_hard_pixels_are_those_of_a_loop(batch, threshold, kept, weights):
    scores, labels = batch
    true = sorted(float(p[c]) for p, c in pixels(scores, labels))
    edge = max(true[min(kept, len(true) - 1)], threshold)
    factors = [1.0] * 4 if weights is None else weights.tolist()
    hard = [-factors[c] * math.log(float(p[c])) for p, c in pixels(scores, labels) if float(p[c]) < edge]
    ours = hard_cross_entropy(scores, labels, IGNORE, weights, threshold, kept)
    assert float(ours) == pytest.approx(sum(hard) / max(len(hard), 1))


def jaccard_loss(wrong: set[int], truth: set[int]) -> float:
    """1 - IoU of a class when these pixels are labelled wrongly."""
    if not truth | wrong:
        return 0.0
    return len(wrong) / len(truth | wrong)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_lovasz_is_the_extension_of_the_jaccard_loss(batch, weights):
    """Definition: pixels join the set of mistakes by falling error, each weighing what it adds to the set's loss."""
    scores, labels = batch
    shown = pixels(scores, labels)
    factors = [1.0] * 4 if weights is None else weights.tolist()
    total = mass = 0.0
    for k in range(4):
        truth = {i for i, (_, c) in enumerate(shown) if c == k}
        if not truth:
            continue
        errors = [abs(float(c == k) - float(p[k])) for p, c in shown]
        wrong: set[int] = set()
        loss = 0.0
        for i in sorted(range(len(shown)), key=lambda i: -errors[i]):
            before = jaccard_loss(wrong, truth)
            wrong.add(i)
            loss += errors[i] * (jaccard_loss(wrong, truth) - before)
        total, mass = total + factors[k] * loss, mass + factors[k]
    assert float(lovasz_softmax(scores, labels, IGNORE, weights)) == pytest.approx(total / mass)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_dice_is_that_of_a_loop(batch, weights):
    scores, labels = batch
    shown = pixels(scores, labels)
    factors = [1.0] * 4 if weights is None else weights.tolist()
    total = mass = 0.0
    for k in range(4):
        both = sum(float(p[k]) for p, c in shown if c == k)
        size = sum(float(p[k]) ** 2 for p, _ in shown) + sum(c == k for _, c in shown)
        if any(c == k for _, c in shown):
            total, mass = total + factors[k] * (1 - 2 * both / size), mass + factors[k]
    assert float(dice_loss(scores, labels, IGNORE, weights)) == pytest.approx(total / mass)


@pytest.mark.parametrize("name", ["cross_entropy", "lovasz", "dice"])
def test_gradients(batch, name):
    scores, labels = batch
    scores = scores[:1, :, :2, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: TERMS[name](x, labels[:1, :2, :3], IGNORE, WEIGHTS), scores)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("weights", [(), (1.0, 0.0, 2.0, 1.0)])
def test_nothing_to_learn_is_no_loss(name, weights):
    criterion = PixelLoss(ignore_value=IGNORE, terms={name: 1.0}, class_weights=weights)
    scores = (100 * torch.randn(2, 4, 3, 3)).requires_grad_()
    loss = criterion(scores, torch.full((2, 3, 3), IGNORE))
    loss.backward()
    assert loss.item() == 0 and torch.equal(scores.grad, torch.zeros_like(scores))


@pytest.mark.parametrize("name", TERMS)
def test_classes_of_no_weight_are_no_loss(name):
    criterion = PixelLoss(ignore_value=IGNORE, terms={name: 1.0}, class_weights=(1.0, 0.0))
    loss = criterion(torch.randn(1, 2, 3, 3), torch.ones(1, 3, 3, dtype=torch.int64))
    assert loss.item() == 0


@pytest.mark.parametrize("name", ["lovasz", "dice", "cross_entropy"])
def test_certain_truth_costs_nothing(name):
    labels = torch.randint(0, 3, (1, 4, 4))
    scores = 200 * F.one_hot(labels, 3).movedim(-1, 1).float()
    assert PixelLoss(ignore_value=IGNORE, terms={name: 1.0})(scores, labels).item() == pytest.approx(0, abs=1e-6)


def test_terms_are_summed_up_with_their_weights(batch):
    scores, labels = batch
    criterion = PixelLoss(ignore_value=IGNORE, terms={"dice": 2.0, "lovasz": 0.5})
    expected = 2 * dice_loss(scores, labels, IGNORE) + 0.5 * lovasz_softmax(scores, labels, IGNORE)
    torch.testing.assert_close(criterion(scores, labels), expected)


def test_class_weights_are_no_part_of_a_checkpoint():
    assert not PixelLoss(ignore_value=IGNORE, terms={"dice": 1.0}, class_weights=(1.0, 2.0)).state_dict()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="focal"):
        PixelLoss(ignore_value=IGNORE, terms={"focal": 1.0})
    criterion = PixelLoss(ignore_value=IGNORE, terms={"dice": 1.0}, class_weights=(1.0, 2.0))
    with pytest.raises(ValueError, match="2 class weights for 3 classes"):
        criterion(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
