"""Generalized IoU: known values, torchvision's, and gradients."""

import pytest
import torch
from torchvision.ops import generalized_box_iou

from densekit.ops.generalized_iou import generalized_iou
from tests.tolerances import close


def boxes(count):
    corners = torch.rand(count, 2, dtype=torch.float64)
    return torch.cat((corners, corners + 0.05 + torch.rand(count, 2, dtype=torch.float64)), dim=1)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ([0.0, 0.0, 2.0, 2.0], 1.0),  # itself
        ([1.0, 1.0, 3.0, 3.0], 1 / 7 - 2 / 9),  # overlap 1, union 7, hull 9
        ([4.0, 0.0, 6.0, 2.0], -1 / 3),  # apart: union 8, hull 12
        ([2.0, 0.0, 4.0, 2.0], 0.0),  # they touch, and the hull is full
    ],
)
def test_known_values(second, expected):
    value = generalized_iou(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor(second))
    assert value.item() == pytest.approx(expected)


def test_broadcasting_gives_the_table_of_pairs():
    first, second = boxes(5), boxes(7)
    table = generalized_iou(first[:, None], second)
    torch.testing.assert_close(table, generalized_box_iou(first, second), **close(torch.float64))
    torch.testing.assert_close(generalized_iou(first, second[:5]), table.diagonal(), **close(torch.float64))


def test_gradient():
    first, second = boxes(4).requires_grad_(), boxes(4)
    assert torch.autograd.gradcheck(lambda x: generalized_iou(x, second), first)


def test_tiny_boxes_keep_their_value():
    """In relative coordinates areas of 1e-8 occur; nothing may be added to them."""
    pair = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0]], dtype=torch.float64) * 1e-4
    assert generalized_iou(pair[0], pair[1]).item() == pytest.approx(1 / 7 - 2 / 9)
