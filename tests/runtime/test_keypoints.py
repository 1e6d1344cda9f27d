"""Keypoint targets and decoding."""

import pytest
import torch

from densekit.d2.structures import Keypoints, heatmaps_to_keypoints
from tests.tolerances import close

REFUSED = (AssertionError, ValueError, IndexError)


class TestTargets:
    def test_known_bins(self):
        box = torch.tensor([[10.0, 20, 66, 132]])  # 56 x 112 pixels: bins of 1 x 2
        points = [
            [10.0, 20.0, 2.0],  # the first bin
            [13.9, 27.9, 1.0],  # hidden counts
            [66.0, 132.0, 2.0],  # the far edges belong to the last bin
            [66.1, 50.0, 2.0],  # outside
            [9.9, 50.0, 2.0],
            [30.0, 40.0, 0.0],  # not labelled
        ]
        bins, valid = Keypoints([points]).to_heatmap(box, 56)
        assert valid.tolist() == [[1, 1, 1, 0, 0, 0]]
        assert bins.tolist() == [[0, 3 * 56 + 3, 56 * 56 - 1, 0, 0, 0]]

    def test_each_object_has_its_box(self):
        points = torch.tensor([[[5.0, 5, 2]], [[5.0, 5, 2]]])
        bins, valid = Keypoints(points).to_heatmap(torch.tensor([[0.0, 0, 10, 10], [4, 4, 14, 14]]), 10)
        assert valid.all() and bins[:, 0].tolist() == [55, 11]

    def test_empty(self):
        bins, valid = Keypoints(torch.zeros(0, 17, 3)).to_heatmap(torch.zeros(0, 4), 56)
        assert bins.numel() == 0 and valid.numel() == 0 and bins.dtype == valid.dtype == torch.int64


class TestContainer:
    def test_indexing_cat_and_shape(self):
        keypoints = Keypoints(torch.rand(4, 3, 3))
        assert keypoints[1:3].tensor.equal(keypoints.tensor[1:3])
        assert len(keypoints[torch.tensor([True, False, False, True])]) == 2
        assert len(Keypoints.cat([keypoints, keypoints])) == 8
        assert keypoints.to("cpu").tensor.equal(keypoints.tensor)
        with pytest.raises(REFUSED):
            Keypoints(torch.zeros(4, 3))

    def test_integer_index_keeps_the_object_dimension(self):
        from densekit.runtime.structures import Keypoints as RuntimeKeypoints

        keypoints = RuntimeKeypoints(torch.rand(4, 3, 3))
        assert keypoints[-1].tensor.equal(keypoints.tensor[-1:])


class TestDecoding:
    def test_inverts_the_targets(self):
        boxes = torch.tensor([[3.0, 5.0, 115.0, 61.0], [20.0, 10.0, 76.0, 234.0]])
        points = torch.cat((boxes[:, None, :2] + torch.rand(2, 17, 2) * (boxes[:, 2:] - boxes[:, :2])[:, None],
                            torch.full((2, 17, 1), 2.0)), dim=2)  # fmt: skip
        bins, valid = Keypoints(points).to_heatmap(boxes, 56)
        assert valid.all()
        maps = torch.zeros(2, 17, 56 * 56).scatter_(2, bins[..., None], 10.0).view(2, 17, 56, 56)
        decoded = heatmaps_to_keypoints(maps, boxes)
        cell = (boxes[:, 2:] - boxes[:, :2])[:, None] / 56
        assert ((decoded[..., :2] - points[..., :2]).abs() <= cell).all()

    def test_fractional_box_scales_and_shifts(self):
        maps = torch.zeros(1, 1, 4, 4)
        maps[0, 0, 2, 1] = 1.0
        x, y = heatmaps_to_keypoints(maps, torch.tensor([[10.0, 20.0, 13.6, 23.2]]))[0, 0, :2].tolist()
        # Resized to 4 x 4 whole pixels; a pixel is then 0.9 x 0.8 of the image's.
        assert (x, y) == pytest.approx((10 + 1.5 * 0.9, 20 + 2.5 * 0.8), abs=1e-4)

    def test_score_is_a_softmax_over_the_map(self):
        maps = torch.randn(3, 2, 8, 8)
        decoded = heatmaps_to_keypoints(maps, torch.tensor([[0.0, 0.0, 8.0, 8.0]]).expand(3, 4))  # no resizing
        torch.testing.assert_close(decoded[..., 2], maps.amax(dim=(2, 3)), **close(torch.float32))
        torch.testing.assert_close(decoded[..., 3], maps.flatten(2).softmax(2).amax(2), **close(torch.float32))

    def test_tiny_box_counts_as_a_pixel(self):
        decoded = heatmaps_to_keypoints(torch.randn(1, 3, 8, 8), torch.tensor([[4.0, 4.0, 4.0, 4.0]]))
        assert decoded[0, :, 0].tolist() == [4.5] * 3 and torch.isfinite(decoded).all()

    def test_order_of_boxes_does_not_matter(self):
        maps, boxes = torch.randn(5, 4, 14, 14), torch.tensor([[0.0, 0, 20, 30]]) + torch.rand(5, 1) * 20
        boxes[:, 2:] += torch.rand(5, 2) * 20
        order = torch.tensor([3, 1, 4, 0, 2])
        assert heatmaps_to_keypoints(maps[order], boxes[order]).equal(heatmaps_to_keypoints(maps, boxes)[order])

    def test_empty(self):
        assert heatmaps_to_keypoints(torch.zeros(0, 17, 56, 56), torch.zeros(0, 4)).shape == (0, 17, 4)
