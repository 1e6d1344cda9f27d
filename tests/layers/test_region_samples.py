"""RoIWarp, and the places where poolers sample: the operators' results follow from the drawn places alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align, roi_pool

from densekit.layers.region_samples import POOLERS, region_samples
from densekit.layers.roi_warp import RoIWarp
from tests.tolerances import close

BOXES = [(3.0, 5.0, 60.0, 41.0), (17.3, 8.9, 30.1, 70.6), (40.0, 40.0, 41.0, 41.5), (0.0, 0.0, 96.0, 80.0)]
STRIDE = 8


def row(box):
    return torch.tensor([[0.0, *box]], dtype=torch.float64)


def pool(pooler, features, box, bins, ratio):
    if pooler == "ROIPool":
        return roi_pool(features, row(box), bins, 1 / STRIDE)
    if pooler == "ROIWarp":
        return RoIWarp(bins, 1 / STRIDE)(features, row(box))
    return roi_align(features, row(box), bins, 1 / STRIDE, ratio, pooler == "ROIAlignV2")


def value_at(plane, x, y):
    """Bilinear by hand, at (x, y) of cells whose middles are at .5; from one cell beyond the border on it is 0."""
    height, width = plane.shape
    x, y = x - 0.5, y - 0.5
    if not (-1 <= x <= width and -1 <= y <= height):
        return 0.0
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    left, top = int(x), int(y)
    right, low = min(left + 1, width - 1), min(top + 1, height - 1)
    upper = plane[top, left] * (1 - x + left) + plane[top, right] * (x - left)
    lower = plane[low, left] * (1 - x + left) + plane[low, right] * (x - left)
    return float(upper * (1 - y + top) + lower * (y - top))


@pytest.mark.parametrize("pooler", POOLERS)
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("box", BOXES)
def test_results_are_those_of_the_drawn_places(pooler, ratio, box):
    features = torch.randn(1, 1, 12, 14, dtype=torch.float64)
    bins = (3, 2)
    places = region_samples(pooler, box, stride=STRIDE, bins=bins, sampling_ratio=ratio).points
    combine = np.mean if pooler.startswith("ROIAlign") else np.max
    # RoIPool's cells beyond the border do not take part; the others are sampled there.
    inside = [[p for p in points if pooler != "ROIPool" or (p[0] < 14 and p[1] < 12)] for points in places]
    expected = [combine([value_at(features[0, 0], *p) for p in points]) if points else 0.0 for points in inside]
    found = pool(pooler, features, box, bins, ratio)[0, 0]
    torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=torch.float64), **close(torch.float64))


def test_a_side_of_665_pixels_loses_25_to_the_floor():
    samples = region_samples("ROIPool", (0, 0, 665, 665), stride=32, bins=(7, 7), rounding="floor")
    assert samples.exact[2] == pytest.approx(20.78, abs=0.005)
    assert samples.placed[2] == 20
    assert -samples.moved[2] == pytest.approx(25)  # 0.78 x 32
    nearest = region_samples("ROIPool", (0, 0, 665, 665), stride=32, bins=(7, 7))
    assert nearest.placed[2] == 21 and nearest.moved[2] == pytest.approx(7)  # what the operator does
    aligned = region_samples("ROIAlignV2", (0, 0, 665, 665), stride=32, bins=(7, 7), sampling_ratio=2)
    assert not aligned.moved.any() and {len(points) for points in aligned.points} == {4}


def test_a_region_of_an_8_by_8_map_in_2_by_2_bins():
    """The cells of columns 0 to 6 and rows 3 to 7: neither seven columns nor five rows divide by two."""
    features = torch.arange(64, dtype=torch.float64).reshape(1, 1, 8, 8)
    places = region_samples("ROIPool", (0, 3, 6, 7), stride=1, bins=(2, 2)).points
    columns = [sorted({int(x) for x, _ in points}) for points in places[:2]]
    rows = [sorted({int(y) for _, y in points}) for points in places[::2]]
    assert columns == [[0, 1, 2, 3], [3, 4, 5, 6]] and rows == [[3, 4, 5], [5, 6, 7]]
    found = roi_pool(features, torch.tensor([[0, 0, 3, 6, 7]], dtype=torch.float64), (2, 2))[0, 0]
    assert found.tolist() == [[5 * 8 + 3, 5 * 8 + 6], [7 * 8 + 3, 7 * 8 + 6]]


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"pooler": "RoIpool"}, "RoIpool"),
        ({"box": (5, 5, 5, 9)}, "x0 < x1"),
        ({"box": (5, 5, float("nan"), 9)}, "x0 < x1"),
        ({"stride": 0}, "stride 0"),
        ({"rounding": "up"}, "'up'"),
    ],
)
def test_input_that_makes_no_sense(changed, message):
    asked = {"pooler": "ROIPool", "box": (0, 0, 9, 9), "stride": 4, "bins": (2, 2)} | changed
    with pytest.raises(ValueError, match=message):
        region_samples(asked.pop("pooler"), asked.pop("box"), **asked)


class TestRoIWarp:
    def test_a_box_of_twice_the_bins_is_only_max_pooled(self):
        features = torch.randn(1, 3, 12, 14, dtype=torch.float64)
        pooled = RoIWarp((3, 4), 1 / STRIDE)(features, row((2 * STRIDE, STRIDE, 9 * STRIDE, 6 * STRIDE)))
        torch.testing.assert_close(pooled, F.max_pool2d(features[:, :, 1:7, 2:10], 2), **close(torch.float64))

    def test_of_a_flat_map_it_gives_its_value(self):
        boxes = torch.cat([row(box) for box in BOXES])
        pooled = RoIWarp((5, 5), 1 / STRIDE)(torch.full((1, 1, 12, 14), 2.5, dtype=torch.float64), boxes)
        torch.testing.assert_close(pooled, torch.full_like(pooled, 2.5), **close(torch.float64))

    def test_corners_are_rounded(self):
        features = torch.randn(1, 2, 12, 14, dtype=torch.float64)
        warp = RoIWarp((3, 3), 1 / STRIDE)
        assert torch.equal(warp(features, row((16, 8, 56, 64))), warp(features, row((19, 5, 53, 67))))
        assert not torch.equal(warp(features, row((16, 8, 56, 64))), warp(features, row((21, 8, 56, 64))))

    def test_images_do_not_mix_and_no_boxes_give_nothing(self):
        features = torch.randn(2, 2, 12, 14, dtype=torch.float64)
        warp, boxes = RoIWarp((3, 3), 1 / STRIDE), row(BOXES[0])
        second = boxes.clone()
        second[:, 0] = 1
        assert torch.equal(warp(features, second), warp(features[1:], boxes))
        assert warp(features, boxes[:0]).shape == (0, 2, 3, 3)

    def test_gradients(self):
        features = torch.randn(1, 2, 6, 7, dtype=torch.float64, requires_grad=True)
        boxes = torch.cat([row((3, 5, 40, 33)), row((9, 9, 11, 50))])
        assert torch.autograd.gradcheck(lambda x: RoIWarp((2, 3), 1 / STRIDE)(x, boxes), features)

    def test_boxes_in_another_form_are_refused(self):
        with pytest.raises(ValueError, match=r"\(3, 4\)"):
            RoIWarp((2, 2), 1.0)(torch.zeros(1, 1, 4, 4), torch.zeros(3, 4))
