"""Boxes that no anchor covers, against a look at every anchor."""

import pytest
import torch

from densekit.d2.modeling.anchor_generator import DefaultAnchorGenerator
from densekit.d2.structures import Boxes, BoxMode, pairwise_iou
from densekit.modeling.anchor_coverage import Anchors, best_overlaps, describe, scaled_boxes


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_nearest_anchor_of_each_shape_is_the_best(offset):
    strides = [8, 16, 32]
    generator = DefaultAnchorGenerator(
        sizes=[[12, 20], [32, 40], [64, 90]], aspect_ratios=[[0.5, 1, 2]], strides=strides, offset=offset
    )
    height, width = 96, 160
    corner = torch.rand(300, 2) * torch.tensor([width - 4.0, height - 4.0])
    extent = 1 + torch.rand(300, 2) * 70
    boxes = torch.cat((corner, torch.minimum(corner + extent, torch.tensor([width, height]))), dim=1)
    every = Boxes.cat(generator([torch.zeros(1, 1, height // s, width // s) for s in strides]))
    expected = pairwise_iou(Boxes(boxes), every).max(dim=1).values
    anchors = Anchors([cell.clone() for cell in generator.cell_anchors], strides, offset, 0.4)
    sizes = torch.tensor([[height, width]]).expand(len(boxes), 2).float()
    torch.testing.assert_close(best_overlaps(boxes, sizes, anchors), expected)


def test_boxes_are_those_of_the_resized_image_without_crowds():
    box = {"bbox": [10, 20, 30, 40], "bbox_mode": BoxMode.XYWH_ABS}
    records = [
        {"height": 100, "width": 200, "annotations": [box, box | {"iscrowd": 1}]},
        {"height": 100, "width": 100, "annotations": []},
    ]
    boxes, sizes = scaled_boxes(records, 50, 1000)
    assert boxes.tolist() == [[5, 10, 20, 30]] and sizes.tolist() == [[50, 100]]
    assert scaled_boxes(records, 50, 60)[0].tolist() == [pytest.approx([3, 6, 12, 18])]  # the longer side decides
    assert scaled_boxes([], 50, 60)[0].shape == (0, 4)


def test_what_is_said_names_the_remedy():
    anchors = Anchors([torch.tensor([[-16.0, -16.0, 16.0, 16.0]])], [16], 0.0, 0.4)
    boxes = torch.tensor([[0.0, 0.0, 32.0, 32.0], [50.0, 50.0, 53.0, 53.0]])
    sizes = torch.full((2, 2), 100.0)
    assert describe(boxes[:1], sizes[:1], anchors) == "0 of 1 boxes overlap no anchor by 0.4"
    text = describe(boxes, sizes, anchors)
    assert text.startswith("1 of 2 boxes") and "3 to 3 pixels" in text and "ANCHOR_GENERATOR.SIZES" in text
