"""ROI pooling over a pyramid: level rule by known values, results against box-by-box pooling."""

import math

import pytest
import torch

from densekit.d2.layers import roi_align
from densekit.d2.modeling.poolers import ROIPooler, assign_boxes_to_levels, convert_boxes_to_pooler_format
from densekit.d2.structures import Boxes
from tests.tolerances import close

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]


def pyramid(images=2, channels=3, height=128, width=160):
    return [torch.randn(images, channels, int(height * s), int(width * s)) for s in SCALES]


def boxes_of_all_sizes(count):
    corner = torch.rand(count, 2) * 40
    return Boxes(torch.cat((corner, corner + 2 ** (1 + torch.rand(count, 2) * 9)), dim=1))


def test_box_of_canonical_size_goes_to_the_canonical_level():
    sides = [112.0, 223.9, 224.0, 447.9, 448.0, 1e5, 1.0, 0.0]
    boxes = Boxes(torch.tensor([[0, 0, side, side] for side in sides]))
    levels = assign_boxes_to_levels([boxes], 2, 5, 224, 4)
    assert (levels + 2).tolist() == [3, 3, 4, 4, 5, 5, 2, 2]
    # The rule is on the area: a flat box of 448 x 112 is of canonical size.
    flat = Boxes(torch.tensor([[0.0, 0.0, 448.0, 112.0]]))
    assert assign_boxes_to_levels([flat, boxes[:1]], 2, 5, 224, 4).tolist() == [2, 1]


def test_pooler_format_names_the_image():
    lists = [boxes_of_all_sizes(2), boxes_of_all_sizes(0), boxes_of_all_sizes(3)]
    rows = convert_boxes_to_pooler_format(lists)
    assert rows[:, 0].tolist() == [0, 0, 2, 2, 2]
    assert torch.equal(rows[:, 1:], torch.cat([boxes.tensor for boxes in lists]))


@pytest.mark.parametrize("pooler_type, aligned", [("ROIAlignV2", True), ("ROIAlign", False)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pooling_equals_one_box_at_a_time(pooler_type, aligned, channels_last):
    features, lists = pyramid(), [boxes_of_all_sizes(12), boxes_of_all_sizes(9)]
    if channels_last:
        features = [feature.contiguous(memory_format=torch.channels_last) for feature in features]
    pooled = ROIPooler(7, SCALES, 2, pooler_type)(features, lists)
    expected = []
    for image, boxes in enumerate(lists):
        for box in boxes.tensor:
            side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
            level = min(max(math.floor(4 + math.log2(side / 224 + 1e-8)), 2), 5) - 2
            source = features[level][image : image + 1].contiguous()
            expected.append(roi_align(source, [box[None]], 7, SCALES[level], 2, aligned))
    torch.testing.assert_close(pooled, torch.cat(expected), **close(torch.float32))


def test_max_pooling_takes_the_largest_pixel_of_each_cell():
    feature = torch.randn(1, 2, 16, 16)
    pooled = ROIPooler((2, 4), [1 / 4], 0, "ROIPool")([feature], [Boxes(torch.tensor([[0.0, 0.0, 60.0, 60.0]]))])
    assert pooled.shape == (1, 2, 2, 4)
    assert torch.equal(pooled[0], feature[0].reshape(2, 2, 8, 4, 4).amax(dim=(2, 4)))


def test_output_may_be_higher_than_wide():
    pooled = ROIPooler((6, 3), [1 / 4], 2, "ROIAlignV2")([torch.randn(1, 2, 8, 8)], [boxes_of_all_sizes(4)])
    assert pooled.shape == (4, 2, 6, 3)


@pytest.mark.parametrize("scales", [SCALES, SCALES[:1]])
def test_no_boxes_give_an_empty_result_that_goes_backward(scales):
    pooler, features = ROIPooler(7, scales, 0, "ROIAlignV2"), pyramid()[: len(scales)]
    features = [feature.requires_grad_() for feature in features]
    pooled = pooler(features, [boxes_of_all_sizes(0), boxes_of_all_sizes(0)])
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert all(feature.grad is None or torch.count_nonzero(feature.grad) == 0 for feature in features)
    assert pooler([feature[:0] for feature in features], []).shape == (0, 3, 7, 7)


def test_gradients_of_all_levels_equal_those_of_single_boxes():
    base = pyramid(images=1)
    boxes, weight = boxes_of_all_sizes(10), torch.randn(10, 3, 5, 5)
    together = [feature.clone().requires_grad_() for feature in base]
    pooler = ROIPooler(5, SCALES, 2, "ROIAlignV2")
    (pooler(together, [boxes]) * weight).sum().backward()
    alone = [feature.clone().requires_grad_() for feature in base]
    for index in range(10):
        (pooler(alone, [boxes[index : index + 1]]) * weight[index]).sum().backward()
    for left, right in zip(together, alone):
        torch.testing.assert_close(left.grad, right.grad, **close(torch.float32))


def test_wrong_settings_are_refused():
    from densekit.runtime.modeling.poolers import ROIPooler as Pooler
    from densekit.runtime.structures import Boxes as RuntimeBoxes

    with pytest.raises(ValueError, match="DENSEKIT_HOST=detectron2"):
        Pooler(7, SCALES, 0, "ROIAlignRotated")
    with pytest.raises(ValueError, match="'ROIWarp' is not one of"):
        Pooler(7, SCALES, 0, "ROIWarp")
    for scales in ([1 / 4, 1 / 16], [1 / 3], [1 / 8, 1 / 4], [2.0]):
        with pytest.raises(ValueError, match="powers of 1/2"):
            Pooler(7, scales, 0, "ROIAlignV2")
    with pytest.raises(ValueError, match="4 feature maps, got 1"):
        Pooler(7, SCALES, 0, "ROIAlignV2")(pyramid()[:1], [])
    with pytest.raises(ValueError, match="boxes of 1 images and features of 2"):
        Pooler(7, SCALES, 0, "ROIAlignV2")(pyramid(), [RuntimeBoxes(torch.zeros(1, 4))])
