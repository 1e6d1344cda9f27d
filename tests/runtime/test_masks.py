"""Bitmaps, polygons and masks in boxes."""

import numpy as np
import pytest
import torch

from densekit.d2.layers import paste_masks_in_image
from densekit.d2.structures import BitMasks, Boxes, PolygonMasks, ROIMasks, polygons_to_bitmask

REFUSED = (AssertionError, ValueError, IndexError)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([x0, y0, x1, y0, x1, y1, x0, y1], dtype=np.float64)


class TestPolygonsToBitmask:
    def test_rectangle_on_pixel_borders(self):
        mask = polygons_to_bitmask([rectangle(2, 1, 6, 4)], 8, 10)
        expected = np.zeros((8, 10), dtype=bool)
        expected[1:4, 2:6] = True
        assert mask.dtype == bool and np.array_equal(mask, expected)

    def test_union_of_parts(self):
        both = polygons_to_bitmask([rectangle(0, 0, 3, 3), rectangle(2, 2, 5, 5)], 6, 6)
        apart = [polygons_to_bitmask([r], 6, 6) for r in (rectangle(0, 0, 3, 3), rectangle(2, 2, 5, 5))]
        assert np.array_equal(both, apart[0] | apart[1])

    def test_no_polygon_is_empty(self):
        assert polygons_to_bitmask([], 3, 4).shape == (3, 4) and not polygons_to_bitmask([], 3, 4).any()


class TestBitMasks:
    def test_boxes_are_tight(self):
        masks = torch.zeros(3, 20, 30)
        masks[0, 4:9, 11:20] = 1
        masks[1, 19, 29] = 1
        boxes = BitMasks(masks).get_bounding_boxes()
        assert boxes.tensor.tolist() == [[11, 4, 20, 9], [29, 19, 30, 20], [0, 0, 0, 0]]
        assert BitMasks(masks).nonempty().tolist() == [True, True, False]
        assert len(BitMasks(masks[:0]).get_bounding_boxes()) == 0

    def test_crop_of_its_own_box_is_full(self):
        masks = torch.zeros(1, 40, 40)
        masks[0, 10:30, 5:25] = 1
        assert BitMasks(masks).crop_and_resize(torch.tensor([[5.0, 10, 25, 30]]), 8).all()

    def test_crop_sees_the_half(self):
        masks = torch.zeros(2, 40, 40)
        masks[:, :, :20] = 1
        crops = BitMasks(masks).crop_and_resize(torch.tensor([[10.0, 10, 30, 30], [25, 0, 35, 10]]), 8)
        assert crops.dtype == torch.bool and crops[0, :, :4].all() and not crops[0, :, 4:].any()
        assert not crops[1].any()

    def test_agrees_with_polygons(self):
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        circle = np.stack((50 + 30 * np.cos(angle), 60 + 20 * np.sin(angle)), axis=1).ravel()
        polygons = PolygonMasks([[circle], [rectangle(10, 20, 60, 90)]])
        bitmaps = BitMasks.from_polygon_masks(polygons, 120, 110)
        boxes = torch.tensor([[25.0, 30, 70, 85], [0, 0, 100, 100]])
        a, b = polygons.crop_and_resize(boxes, 28), bitmaps.crop_and_resize(boxes, 28)
        assert ((a & b).sum() / (a | b).sum()).item() > 0.95

    def test_indexing_and_cat(self):
        masks = BitMasks(torch.rand(4, 5, 6) > 0.5)
        assert masks.image_size == (5, 6) and len(masks) == 4
        assert masks[1].tensor.shape == (1, 5, 6)
        assert masks[torch.tensor([True, False, True, False])].tensor.equal(masks.tensor[[0, 2]])
        assert BitMasks.cat([masks, masks[:1]]).tensor.shape == (5, 5, 6)
        assert torch.stack(list(masks)).equal(masks.tensor)
        assert BitMasks(masks.tensor.numpy()).tensor.equal(masks.tensor)

    def test_empty(self):
        assert BitMasks.from_polygon_masks([], 4, 5).tensor.shape == (0, 4, 5)
        assert BitMasks(torch.zeros(0, 4, 5)).crop_and_resize(torch.zeros(0, 4), 7).shape == (0, 7, 7)

    def test_refuses(self):
        with pytest.raises(REFUSED):
            BitMasks(torch.zeros(4, 5))
        with pytest.raises(REFUSED):
            BitMasks(torch.zeros(2, 4, 5)).crop_and_resize(torch.zeros(1, 4), 7)


class TestPolygonMasks:
    def make(self) -> PolygonMasks:
        return PolygonMasks([[rectangle(1, 2, 5, 4)], [rectangle(0, 0, 2, 2), rectangle(4, 4, 7, 5)], []])

    def test_area_boxes_and_emptiness(self):
        masks = self.make()
        assert masks.area().tolist() == [8, 7, 0]
        assert masks.nonempty().tolist() == [True, True, False]
        assert masks[:2].get_bounding_boxes().tensor.tolist() == [[1, 2, 5, 4], [0, 0, 7, 5]]

    def test_crop_and_resize(self):
        masks = self.make()
        boxes = torch.tensor([[1.0, 2, 5, 4], [0, 0, 8, 8], [0, 0, 8, 8]])
        crops = masks.crop_and_resize(boxes, 8)
        expected = torch.zeros(8, 8, dtype=torch.bool)
        expected[:2, :2] = True
        expected[4, 4:7] = True
        assert crops[0].all() and crops[1].equal(expected) and not crops[2].any()

    def test_crop_does_not_move_the_polygons(self):
        masks = self.make()
        before = [[p.copy() for p in polygons] for polygons in masks]
        masks.crop_and_resize(torch.tensor([[3.0, 3, 4, 9]] * 3), 14)
        assert all(np.array_equal(a, b) for x, y in zip(before, masks) for a, b in zip(x, y))

    def test_degenerate_box(self):
        assert self.make().crop_and_resize(torch.tensor([[3.0, 3, 3, 3]] * 3), 14).shape == (3, 14, 14)

    @pytest.mark.parametrize(
        "item",
        [[2, 0], torch.tensor([2, 0]), torch.tensor([True, False, True]), slice(0, 3, 2), 1, torch.tensor([]).long()],
    )
    def test_indexing(self, item):
        masks = self.make()
        number = torch.arange(3)[item].reshape(-1).tolist()
        assert [len(p) for p in masks[item]] == [len(masks.polygons[i]) for i in number]

    def test_refuses(self):
        masks = self.make()
        with pytest.raises(REFUSED):
            masks[torch.tensor([0.0])]
        for bad in ([[np.arange(4)]], [[np.arange(7)]], [np.arange(8)], np.zeros((2, 8))):
            with pytest.raises(ValueError):
                PolygonMasks(bad)

    def test_cat_to_and_empty(self):
        masks = self.make()
        assert len(PolygonMasks.cat([masks, masks])) == 6 and masks.to("cpu") is masks
        assert PolygonMasks([]).crop_and_resize(torch.zeros(0, 4), 5).shape == (0, 5, 5)
        assert len(PolygonMasks([]).get_bounding_boxes()) == 0


class TestPaste:
    def test_full_mask_covers_the_pixel_centres_of_its_box(self):
        box = torch.tensor([[3.2, 4.7, 12.4, 9.6]])
        pasted = paste_masks_in_image(torch.ones(1, 28, 28), box, (15, 20))
        y, x = torch.meshgrid(torch.arange(15) + 0.5, torch.arange(20) + 0.5, indexing="ij")
        assert pasted.dtype == torch.bool
        assert pasted[0].equal((x > 3.2) & (x < 12.4) & (y > 4.7) & (y < 9.6))

    def test_against_plain_python(self):
        mask, (x0, y0, x1, y1) = torch.rand(5, 5), (2.0, 1.0, 9.0, 11.0)
        soft = paste_masks_in_image(mask[None], torch.tensor([[x0, y0, x1, y1]]), (12, 10), threshold=-1)
        assert soft.dtype == torch.uint8

        def cell(row: int, column: int) -> float:
            return mask[row, column].item() if 0 <= row < 5 and 0 <= column < 5 else 0.0

        for py in range(12):
            for px in range(10):
                v, u = (py + 0.5 - y0) / (y1 - y0) * 5 - 0.5, (px + 0.5 - x0) / (x1 - x0) * 5 - 0.5
                row, column = int(np.floor(v)), int(np.floor(u))
                fv, fu = v - row, u - column
                value = (1 - fv) * ((1 - fu) * cell(row, column) + fu * cell(row, column + 1))
                value += fv * ((1 - fu) * cell(row + 1, column) + fu * cell(row + 1, column + 1))
                assert abs(int(soft[0, py, px]) - value * 255) < 1.01

    def test_boxes_may_leave_the_image(self):
        boxes = torch.tensor([[-50.0, -50, 200, 200], [-30, -30, 10, 5]])
        pasted = paste_masks_in_image(torch.ones(2, 28, 28), boxes, (40, 30))
        assert pasted[0].all() and pasted[1].sum() == 50

    def test_roi_masks(self):
        masks = ROIMasks(torch.rand(3, 14, 14))
        boxes = Boxes([[0.0, 0, 10, 10], [5, 5, 30, 25], [1, 1, 4, 4]])
        bitmaps = masks.to_bitmasks(boxes, 30, 40)
        assert bitmaps.tensor.equal(paste_masks_in_image(masks.tensor, boxes, (30, 40)))
        assert len(masks[:2]) == 2 and masks[torch.tensor([False, True, False])].tensor.equal(masks.tensor[1:2])
        with pytest.raises(ValueError):
            ROIMasks(torch.zeros(3, 3))

    def test_empty(self):
        assert paste_masks_in_image(torch.zeros(0, 28, 28), torch.zeros(0, 4), (6, 7)).shape == (0, 6, 7)

    def test_refuses(self):
        with pytest.raises(REFUSED):
            paste_masks_in_image(torch.zeros(1, 28, 14), torch.zeros(1, 4), (6, 7))
        with pytest.raises(REFUSED):
            paste_masks_in_image(torch.zeros(2, 28, 28), torch.zeros(1, 4), (6, 7))


def test_runtime_accepts_boxes_wholly_outside():
    from densekit.runtime.layers import paste_masks_in_image as paste

    boxes = torch.tensor([[100.0, 100, 120, 130], [-90, 2, -70, 9], [2, 2, 6, 6]])
    pasted = paste(torch.ones(3, 28, 28), boxes, (10, 10))
    assert pasted.flatten(1).sum(dim=1).tolist() == [0, 0, 16]
