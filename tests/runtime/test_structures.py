"""Boxes, Instances and ImageList."""

import copy
import pickle

import numpy as np
import pytest
import torch

from densekit.d2.structures import Boxes, BoxMode, ImageList, Instances, pairwise_ioa, pairwise_iou
from tests.tolerances import close

REFUSED = (AssertionError, ValueError, IndexError)  # what either host raises for bad input


def random_boxes(count: int, side: float = 100.0) -> torch.Tensor:
    corner, size = torch.rand(count, 2) * side, torch.rand(count, 2) * side
    return torch.cat((corner, corner + size), dim=1)


class TestBoxMode:
    @pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
    def test_known_value_keeps_the_container(self, kind):
        one = [2.0, 3.0, 10.0, 20.0]
        box = kind(one) if kind in (list, tuple) else kind([one])
        converted = BoxMode.convert(box, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        assert type(converted) is type(box)
        assert np.asarray(converted).ravel().tolist() == [2, 3, 12, 23]
        assert np.asarray(box).ravel().tolist() == one  # the input is left alone

    def test_round_trip(self):
        boxes = random_boxes(20).double()
        there = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        torch.testing.assert_close(BoxMode.convert(there, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS), boxes)

    def test_integers_stay_integers(self):
        assert BoxMode.convert([1, 2, 3, 4], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) == [1, 2, 4, 6]

    def test_rotated_box_is_bounded(self):
        bound = BoxMode.convert([50.0, 40.0, 20.0, 10.0, 90.0], BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS)
        assert bound == pytest.approx([45, 30, 55, 50], abs=1e-4)
        upright = BoxMode.convert((40.0, 35.0, 20.0, 10.0), BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS)
        assert upright == pytest.approx((50, 40, 20, 10, 0))

    def test_same_mode_is_the_same_object(self):
        box = [1, 2, 3, 4]
        assert BoxMode.convert(box, BoxMode.XYXY_ABS, BoxMode.XYXY_ABS) is box

    def test_json_values(self):
        assert [int(mode) for mode in BoxMode] == [0, 1, 2, 3, 4]

    def test_refuses(self):
        with pytest.raises(REFUSED):
            BoxMode.convert([1, 2, 3], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        with pytest.raises(REFUSED):
            BoxMode.convert([0, 0, 1, 1], BoxMode.XYXY_REL, BoxMode.XYXY_ABS)
        with pytest.raises(NotImplementedError):
            BoxMode.convert([0, 0, 1, 1], BoxMode.XYXY_ABS, BoxMode.XYWHA_ABS)


class TestBoxes:
    def test_area_centers_and_emptiness(self):
        boxes = Boxes([[0, 0, 4, 3], [1, 1, 1, 5], [5, 5, 4, 4]])
        assert boxes.area().tolist() == [12, 0, 1]
        assert boxes.nonempty().tolist() == [True, False, False]
        assert boxes.nonempty(threshold=3).tolist() == [False, False, False]
        assert boxes.get_centers()[0].tolist() == [2, 1.5]

    def test_clip_and_inside(self):
        boxes = Boxes([[-5.0, 2.0, 20.0, 9.0], [1.0, 1.0, 2.0, 2.0]])
        assert boxes.inside_box((8, 10)).tolist() == [False, True]
        assert boxes.inside_box((8, 10), boundary_threshold=11).tolist() == [True, True]
        boxes.clip((8, 10))
        assert boxes.tensor.tolist() == [[0, 2, 10, 8], [1, 1, 2, 2]]

    def test_clip_refuses_nan(self):
        with pytest.raises(REFUSED):
            Boxes([[0.0, 0.0, float("nan"), 1.0]]).clip((5, 5))

    def test_scale_is_in_place(self):
        boxes = Boxes([[1.0, 2.0, 3.0, 4.0]])
        boxes.scale(2, 10)
        assert boxes.tensor.tolist() == [[2, 20, 6, 40]]

    def test_indexing(self):
        boxes = Boxes(random_boxes(5))
        assert boxes[2].tensor.shape == (1, 4) and boxes[-1].tensor.equal(boxes.tensor[-1:])
        assert boxes[1:3].tensor.equal(boxes.tensor[1:3])
        assert boxes[boxes.tensor[:, 0] > 1e9].tensor.shape == (0, 4)
        assert boxes[torch.tensor([4, 0])].tensor.equal(boxes.tensor[[4, 0]])
        assert torch.stack(list(boxes)).equal(boxes.tensor)

    def test_cat_and_clone_do_not_share(self):
        boxes = Boxes(random_boxes(3))
        before = boxes.tensor.clone()
        Boxes.cat([boxes]).tensor.zero_()
        boxes.clone().tensor.zero_()
        assert boxes.tensor.equal(before)
        assert len(Boxes.cat([])) == 0 and len(Boxes.cat([boxes, boxes])) == 6

    def test_empty_and_dtype(self):
        assert Boxes([]).tensor.shape == (0, 4)
        assert Boxes(np.zeros((2, 4), dtype=np.float64)).tensor.dtype == torch.float32
        with pytest.raises(REFUSED):
            Boxes(torch.zeros(2, 5))


class TestOverlap:
    def test_against_plain_python(self):
        first, second = random_boxes(7), random_boxes(9)
        iou, ioa = pairwise_iou(Boxes(first), Boxes(second)), pairwise_ioa(Boxes(first), Boxes(second))
        for i, a in enumerate(first.tolist()):
            for j, b in enumerate(second.tolist()):
                shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
                area_a, area_b = ((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b))
                assert iou[i, j] == pytest.approx(shared / (area_a + area_b - shared), abs=1e-5)
                assert ioa[i, j] == pytest.approx(shared / area_b, abs=1e-5)

    def test_symmetry_and_self(self):
        first, second = Boxes(random_boxes(6)), Boxes(random_boxes(4))
        assert pairwise_iou(first, second).equal(pairwise_iou(second, first).T)
        torch.testing.assert_close(pairwise_iou(first, first).diagonal(), torch.ones(6), **close(torch.float32))

    def test_empty_boxes_overlap_nothing(self):
        point, box = Boxes([[1.0, 1.0, 1.0, 1.0]]), Boxes([[0.0, 0.0, 2.0, 2.0]])
        assert pairwise_iou(point, box).item() == 0 and pairwise_iou(point, point).item() == 0
        assert pairwise_ioa(box, point).item() == 0
        assert pairwise_iou(Boxes([]), box).shape == (0, 1)


class TestInstances:
    def make(self, count: int = 4) -> Instances:
        return Instances(
            (10, 20),
            gt_boxes=Boxes(random_boxes(count)),
            gt_classes=torch.arange(count),
            names=list("abcdefgh"[:count]),
        )

    def test_fields(self):
        instances = self.make()
        assert instances.image_size == (10, 20) and len(instances) == 4
        assert instances.has("gt_classes") and not instances.has("scores")
        instances.scores = torch.ones(4)
        assert instances.get("scores") is instances.scores is instances.get_fields()["scores"]
        instances.remove("scores")
        with pytest.raises(AttributeError, match="scores"):
            _ = instances.scores
        assert not hasattr(instances, "scores")

    def test_length_is_guarded(self):
        instances = self.make()
        with pytest.raises(REFUSED):
            instances.scores = torch.ones(5)
        with pytest.raises(NotImplementedError):
            len(Instances((1, 1)))
        with pytest.raises(NotImplementedError):
            list(instances)

    def test_private_attributes_are_no_fields(self):
        instances = self.make()
        instances._note = "x"
        assert "_note" not in instances.get_fields() and instances._note == "x"

    @pytest.mark.parametrize("item", [slice(1, 3), torch.tensor([True, False, False, True])])
    def test_indexing_goes_through_all_tensor_fields(self, item):
        instances = self.make()
        instances.remove("names")
        chosen = instances[item]
        assert chosen.gt_classes.equal(instances.gt_classes[item])
        assert chosen.gt_boxes.tensor.equal(instances.gt_boxes.tensor[item])

    @pytest.mark.parametrize("index", [0, 3, -1, -4])
    def test_integer_gives_one_object(self, index):
        instances = self.make()
        one = instances[index]
        assert len(one) == 1 and one.gt_classes.item() == range(4)[index] and one.names == [instances.names[index]]

    @pytest.mark.parametrize("index", [4, -5])
    def test_integer_out_of_range(self, index):
        with pytest.raises(IndexError):
            self.make()[index]

    def test_cat(self):
        first, second = self.make(2), self.make(3)
        joined = Instances.cat([first, second])
        assert joined.names == ["a", "b", "a", "b", "c"]
        assert joined.gt_boxes.tensor.equal(torch.cat((first.gt_boxes.tensor, second.gt_boxes.tensor)))
        assert Instances.cat([first]) is first
        with pytest.raises(REFUSED):
            Instances.cat([first, Instances((9, 9), gt_classes=torch.zeros(1))])

    def test_to_moves_what_can_move(self):
        instances = self.make()
        moved = instances.to(torch.device("cpu"))
        assert moved is not instances and moved.names == instances.names and moved.image_size == (10, 20)

    def test_pickle_and_deepcopy(self):
        instances = self.make()
        for twin in (pickle.loads(pickle.dumps(instances)), copy.deepcopy(instances)):
            assert twin.gt_boxes.tensor.equal(instances.gt_boxes.tensor) and twin.image_size == (10, 20)

    def test_repr_names_the_fields(self):
        assert "num_instances=4" in repr(self.make()) and "gt_classes" in str(self.make())


class TestImageList:
    def test_padding_does_not_touch_the_images(self):
        images = [torch.rand(3, 5, 9), torch.rand(3, 8, 4)]
        batch = ImageList.from_tensors(images, size_divisibility=4, pad_value=7.0)
        assert batch.tensor.shape == (2, 3, 8, 12) and len(batch) == 2
        for i, image in enumerate(images):
            assert batch[i].equal(image) and tuple(batch.image_sizes[i]) == tuple(image.shape[-2:])
        assert batch.tensor.sum().item() == pytest.approx(
            sum(i.sum().item() for i in images) + 7 * (batch.tensor.numel() - sum(i.numel() for i in images)), rel=1e-5
        )

    def test_one_image_equals_its_batch_of_two(self):
        image = torch.rand(3, 7, 6)
        one = ImageList.from_tensors([image], 4).tensor
        assert one.equal(ImageList.from_tensors([image, image], 4).tensor[:1])

    def test_input_is_not_shared(self):
        image = torch.rand(1, 4, 4)
        ImageList.from_tensors([image]).tensor.zero_()
        assert image.sum() > 0

    def test_constraints(self):
        image = torch.rand(3, 5, 9)
        assert ImageList.from_tensors([image], padding_constraints={"square_size": 16}).tensor.shape == (1, 3, 16, 16)
        both = {"square_size": 17, "size_divisibility": 4}
        assert ImageList.from_tensors([image], 2, padding_constraints=both).tensor.shape == (1, 3, 20, 20)

    def test_planes_without_channels(self):
        assert ImageList.from_tensors([torch.zeros(3, 4), torch.zeros(5, 2)]).tensor.shape == (2, 5, 4)

    def test_refuses(self):
        with pytest.raises(REFUSED):
            ImageList.from_tensors([])
        with pytest.raises(REFUSED):
            ImageList.from_tensors([torch.zeros(3, 4, 4), torch.zeros(1, 4, 4)])

    def test_to(self):
        batch = ImageList.from_tensors([torch.zeros(3, 4, 4)]).to(torch.float64)
        assert batch.tensor.dtype == torch.float64 and batch.device.type == "cpu"
