"""Box coders: known values, inverses, gradients; the dense loss against a plain loop."""

import math

import pytest
import torch
from fvcore.nn import giou_loss, smooth_l1_loss

from densekit.d2.layers import ciou_loss, diou_loss
from densekit.d2.modeling.box_regression import Box2BoxTransform, Box2BoxTransformLinear
from densekit.runtime.modeling import box_regression as runtime
from densekit.runtime.structures import Boxes
from tests.tolerances import close


def random_boxes(count, size=100.0, dtype=torch.float32):
    corner = torch.rand(count, 2, dtype=dtype) * size
    return torch.cat((corner, corner + 5 + torch.rand(count, 2, dtype=dtype) * size), dim=1)


def test_known_deltas():
    source = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    target = torch.tensor([[5.0, 10.0, 25.0, 20.0]])  # centre from (5, 10) to (15, 15), size from 10 x 20 to 20 x 10
    expected = torch.tensor([[10 * 1.0, 10 * 0.25, 5 * math.log(2), 5 * math.log(0.5)]])
    torch.testing.assert_close(Box2BoxTransform((10.0, 10.0, 5.0, 5.0)).get_deltas(source, target), expected)

    # FCOS: from the centre (5, 10) to left 5, top 10, right 25, bottom 20, in units of width and height.
    inside = torch.tensor([[2.0, 4.0, 25.0, 30.0]])
    expected = torch.tensor([[0.3, 0.3, 2.0, 1.0]])
    torch.testing.assert_close(Box2BoxTransformLinear().get_deltas(source, inside), expected)
    expected = torch.tensor([[3.0, 6.0, 20.0, 20.0]])
    torch.testing.assert_close(Box2BoxTransformLinear(normalize_by_size=False).get_deltas(source, inside), expected)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0), (1.0, 2.0, 3.0, 4.0)])
def test_apply_inverts_get(weights):
    transform, source, target = Box2BoxTransform(weights), random_boxes(50), random_boxes(50)
    deltas = transform.get_deltas(source, target)
    torch.testing.assert_close(transform.apply_deltas(deltas, source), target, rtol=1e-4, atol=1e-3)
    assert torch.equal(transform.apply_deltas(torch.zeros(50, 4), source).round(decimals=3), source.round(decimals=3))


@pytest.mark.parametrize("normalize", [True, False])
def test_linear_apply_inverts_get_where_the_centre_is_inside(normalize):
    transform, source = Box2BoxTransformLinear(normalize), random_boxes(50)
    center = (source[:, :2] + source[:, 2:]) / 2
    target = torch.cat((center - 1 - torch.rand(50, 2) * 40, center + 1 + torch.rand(50, 2) * 40), dim=1)
    deltas = transform.get_deltas(source, target)
    assert (deltas > 0).all()
    torch.testing.assert_close(transform.apply_deltas(deltas, source), target, rtol=1e-4, atol=1e-3)
    flipped = transform.apply_deltas(-deltas, source)
    torch.testing.assert_close(flipped, torch.cat((center, center), dim=1))


@pytest.mark.parametrize("transform", [Box2BoxTransform((10.0, 10.0, 5.0, 5.0)), runtime.Box2BoxTransformLinear()])
def test_predictions_of_several_classes_are_decoded_side_by_side(transform):
    source, deltas = random_boxes(7), torch.randn(7, 3 * 4)
    each = [transform.apply_deltas(deltas[:, i : i + 4], source) for i in (0, 4, 8)]
    torch.testing.assert_close(transform.apply_deltas(deltas, source), torch.cat(each, dim=1))
    assert transform.apply_deltas(deltas[:0], source[:0]).shape == (0, 12)


def test_growth_is_clamped_and_half_precision_decoded_in_float32():
    source = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    grown = Box2BoxTransform((1.0, 1.0, 1.0, 1.0)).apply_deltas(torch.tensor([[0.0, 0.0, 50.0, 50.0]]), source)
    torch.testing.assert_close(grown, torch.tensor([[-492.0, -492.0, 508.0, 508.0]]))
    decoded = Box2BoxTransform((1.0, 1.0, 1.0, 1.0)).apply_deltas(torch.zeros(1, 4, dtype=torch.half), source)
    assert decoded.dtype == torch.float32


def test_source_without_width_is_refused():
    source = torch.tensor([[0.0, 0.0, 10.0, 10.0], [3.0, 3.0, 3.0, 9.0]])
    with pytest.raises(ValueError, match=r"box 1, \[3\.0, 3\.0, 3\.0, 9\.0\]"):
        runtime.Box2BoxTransform((1.0, 1.0, 1.0, 1.0)).get_deltas(source, source)


def loss_inputs(dtype=torch.float32):
    """Two levels of 6 and 4 anchors, two images, 5 positives."""
    anchors = [random_boxes(6, dtype=dtype), random_boxes(4, dtype=dtype)]
    deltas = [torch.randn(2, n, 4, dtype=dtype) * 0.1 for n in (6, 4)]
    gt_boxes = [random_boxes(10, dtype=dtype) for _ in range(2)]
    positive = torch.zeros(2, 10, dtype=torch.bool)
    positive[[0, 0, 1, 1, 1], [1, 7, 0, 3, 9]] = True
    return anchors, deltas, gt_boxes, positive


@pytest.mark.parametrize("kind, beta", [("smooth_l1", 0.0), ("smooth_l1", 0.5), ("giou", 0), ("diou", 0), ("ciou", 0)])
def test_dense_loss_is_the_sum_over_positives(kind, beta):
    anchors, deltas, gt_boxes, positive = loss_inputs()
    transform = runtime.Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    expected = torch.tensor(0.0)
    for image, anchor in positive.nonzero().tolist():
        source = torch.cat(anchors)[anchor : anchor + 1]
        prediction = torch.cat([level[image] for level in deltas])[anchor : anchor + 1]
        target = gt_boxes[image][anchor : anchor + 1]
        if kind == "smooth_l1":
            expected += smooth_l1_loss(prediction, transform.get_deltas(source, target), beta=beta, reduction="sum")
        else:
            loss = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}[kind]
            expected += loss(transform.apply_deltas(prediction, source), target, reduction="sum")
    for form in (anchors, [Boxes(level) for level in anchors]):
        found = runtime._dense_box_regression_loss(form, transform, deltas, gt_boxes, positive, kind, beta)
        torch.testing.assert_close(found, expected, **close(torch.float32))


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou"])
def test_dense_loss_gradients(kind):
    anchors, deltas, gt_boxes, positive = loss_inputs(torch.float64)
    transform = runtime.Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    if kind == "ciou":  # its trade-off factor is a constant to autograd, by definition, so numbers cannot follow
        for level in deltas:
            level.requires_grad_()
        loss = runtime._dense_box_regression_loss(anchors, transform, deltas, gt_boxes, positive, kind)
        loss.backward()
        by_level = torch.cat([level.grad for level in deltas], dim=1)
        assert torch.equal(by_level.abs().sum(dim=2) > 0, positive)
        return

    def loss(*levels):
        return runtime._dense_box_regression_loss(anchors, transform, list(levels), gt_boxes, positive, kind, 0.5)

    assert torch.autograd.gradcheck(loss, [level.requires_grad_() for level in deltas])


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou"])
def test_dense_loss_without_positives_is_zero_and_goes_backward(kind):
    anchors, deltas, gt_boxes, positive = loss_inputs()
    deltas = [level.requires_grad_() for level in deltas]
    transform = runtime.Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    loss = runtime._dense_box_regression_loss(anchors, transform, deltas, gt_boxes, positive & False, kind)
    loss.backward()
    assert loss == 0 and all(torch.count_nonzero(level.grad) == 0 for level in deltas)


def test_coders_have_exact_gradients():
    source, target = random_boxes(4, dtype=torch.float64), random_boxes(4, dtype=torch.float64)
    deltas = (torch.randn(4, 8, dtype=torch.float64) * 0.3).requires_grad_()
    coder, linear = runtime.Box2BoxTransform((10.0, 10.0, 5.0, 5.0)), runtime.Box2BoxTransformLinear()
    assert torch.autograd.gradcheck(lambda d: coder.apply_deltas(d, source), [deltas])
    assert torch.autograd.gradcheck(lambda d: linear.apply_deltas(d, source), [deltas])
    assert torch.autograd.gradcheck(lambda t: coder.get_deltas(source, t), [target.requires_grad_()])


def test_unknown_loss_is_refused():
    anchors, deltas, gt_boxes, positive = loss_inputs()
    with pytest.raises(ValueError, match="'l3' is not one of smooth_l1, giou, diou, ciou"):
        runtime._dense_box_regression_loss(
            anchors, runtime.Box2BoxTransform((1.0, 1.0, 1.0, 1.0)), deltas, gt_boxes, positive, "l3"
        )
