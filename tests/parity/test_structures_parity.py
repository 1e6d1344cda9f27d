"""The runtime's structures and layers against the real Detectron2's on random inputs."""

import numpy as np
import pytest
import torch

from tests.tolerances import PARITY, close

pytest.importorskip("detectron2")

import detectron2.layers as theirs
import detectron2.structures as their_structures

import densekit.runtime.layers as ours
import densekit.runtime.structures as our_structures

F32 = close(torch.float32)


def random_boxes(count: int, side: float = 100.0) -> torch.Tensor:
    corner, size = torch.rand(count, 2) * side, torch.rand(count, 2) * side
    return torch.cat((corner, corner + size), dim=1)


def random_polygons(count: int, side: float = 150.0) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(0)
    shape = lambda: rng.uniform(-10, side, 2 * rng.integers(3, 9))  # noqa: E731
    return [[shape() for _ in range(rng.integers(1, 4))] for _ in range(count)]


class TestStructures:
    @pytest.mark.parametrize("name", ["pairwise_iou", "pairwise_ioa"])
    def test_overlaps(self, name):
        first, second = random_boxes(40), random_boxes(30)
        second[:3] = second[:3, [0, 1, 0, 1]]  # empty ones
        results = [
            getattr(host, name)(host.Boxes(first), host.Boxes(second)) for host in (our_structures, their_structures)
        ]
        assert results[0].equal(results[1])

    @pytest.mark.parametrize(("source", "target"), [(0, 1), (1, 0), (4, 0), (1, 4)])
    @pytest.mark.parametrize("kind", [torch.tensor, np.array, list, tuple])
    def test_box_modes(self, source, target, kind):
        values = random_boxes(5 if kind in (torch.tensor, np.array) else 1).tolist()
        values = [value + [33.0] * (source == 4) for value in values]
        box = kind(values) if kind in (torch.tensor, np.array) else kind(values[0])
        a, b = (
            host.BoxMode.convert(box, host.BoxMode(source), host.BoxMode(target))
            for host in (our_structures, their_structures)
        )
        assert type(a) is type(b) and np.array_equal(np.asarray(a), np.asarray(b))

    def test_box_methods(self):
        boxes = random_boxes(30) * 2 - 50
        a, b = our_structures.Boxes(boxes.clone()), their_structures.Boxes(boxes.clone())
        for method, args in [("area", ()), ("nonempty", (20.0,)), ("get_centers", ()), ("inside_box", ((90, 110), 3))]:
            assert getattr(a, method)(*args).equal(getattr(b, method)(*args)), method
        for box in (a, b):
            box.clip((70, 80))
            box.scale(0.3, 1.7)
        assert a.tensor.equal(b.tensor)

    def test_polygon_masks(self):
        polygons, boxes = random_polygons(40), random_boxes(40)
        boxes[0, 2:] = boxes[0, :2]  # degenerate
        a, b = our_structures.PolygonMasks(polygons), their_structures.PolygonMasks(polygons)
        for size in (14, 28):
            assert a.crop_and_resize(boxes, size).equal(b.crop_and_resize(boxes, size))
        torch.testing.assert_close(a.area(), b.area().double())
        assert a.get_bounding_boxes().tensor.equal(b.get_bounding_boxes().tensor)
        assert a.nonempty().equal(b.nonempty())

    def test_bitmasks(self):
        polygons, boxes = random_polygons(20), random_boxes(20)
        a = our_structures.BitMasks.from_polygon_masks(polygons, 120, 140)
        b = their_structures.BitMasks.from_polygon_masks(polygons, 120, 140)
        assert a.tensor.equal(b.tensor)
        assert a.crop_and_resize(boxes, 28).equal(b.crop_and_resize(boxes, 28))
        assert a.get_bounding_boxes().tensor.equal(b.get_bounding_boxes().tensor)

    @pytest.mark.parametrize("threshold", [0.5, 0.1, -1])
    def test_paste(self, threshold):
        masks, boxes = torch.rand(30, 28, 28), random_boxes(30) * 1.2 - 15
        a, b = (host.paste_masks_in_image(masks, boxes, (130, 150), threshold) for host in (ours, theirs))
        assert a.dtype == b.dtype and a.equal(b)

    def test_keypoints(self):
        boxes, points = random_boxes(30), torch.rand(30, 17, 3) * 200
        points[..., 2] = torch.randint(0, 3, (30, 17))
        points[:, 0, 0], points[:, 1, 1] = boxes[:, 2], boxes[:, 3]
        a, b = (host.Keypoints(points).to_heatmap(boxes, 56) for host in (our_structures, their_structures))
        assert a[0].equal(b[0]) and a[1].equal(b[1])

    def test_heatmaps(self):
        maps, boxes = torch.randn(20, 17, 56, 56) * 3, random_boxes(20) * 1.3
        boxes[0, 2:] = boxes[0, :2]
        a, b = (host.heatmaps_to_keypoints(maps, boxes) for host in (our_structures, their_structures))
        torch.testing.assert_close(a, b, **F32)

    @pytest.mark.parametrize("constraints", [None, {"square_size": 90}, {"square_size": 70, "size_divisibility": 16}])
    def test_image_lists(self, constraints):
        images = [torch.rand(3, 50, 61), torch.rand(3, 64, 33)]
        for batch in (images, images[:1]):
            a, b = (
                host.ImageList.from_tensors(batch, 32, 0.5, constraints) for host in (our_structures, their_structures)
            )
            assert a.tensor.equal(b.tensor) and [tuple(s) for s in a.image_sizes] == [tuple(s) for s in b.image_sizes]


class TestLayers:
    def twins(self, build) -> tuple[torch.nn.Module, torch.nn.Module]:
        a, b = build(ours), build(theirs)
        assert list(a.state_dict()) == list(b.state_dict())
        state = {k: torch.rand_like(v) + 0.1 if v.is_floating_point() else v for k, v in a.state_dict().items()}
        a.load_state_dict(state)
        b.load_state_dict(state)
        return a, b

    @pytest.mark.parametrize("norm", ["", "BN", "FrozenBN", "GN", "LN", "naiveSyncBN"])
    @pytest.mark.parametrize("training", [False, True])
    def test_convolution_forward_and_backward(self, norm, training):
        def build(host):
            return host.Conv2d(8, 32, 3, 2, 1, norm=host.get_norm(norm, 32), activation=torch.nn.functional.relu)

        a, b = self.twins(build)
        x = torch.randn(2, 8, 15, 17)
        results = []
        for layer in (a.train(training), b.train(training)):
            leaf = x.clone().requires_grad_()
            out = layer(leaf)
            weight = torch.linspace(-1, 1, out.numel()).view_as(out)
            results.append((out, *torch.autograd.grad((out * weight).sum(), (leaf, *layer.parameters()))))
        for mine, other in zip(*results):
            torch.testing.assert_close(
                mine, other, atol=1e-4 * float(other.detach().abs().max().clamp(min=1)), rtol=1e-4
            )

    @pytest.mark.parametrize("separable", [False, True])
    def test_aspp(self, separable):
        a, b = self.twins(
            lambda host: host.ASPP(
                32, 32, [1, 2, 4], norm="GN", activation=torch.relu, use_depthwise_separable_conv=separable
            )
        )
        x = torch.randn(2, 32, 12, 14)
        torch.testing.assert_close(a(x), b(x), **PARITY)

    def test_frozen_blocks_have_the_same_keys(self):
        def build(host):
            block = host.CNNBlockBase(3, 8, 1)
            block.conv = host.Conv2d(3, 8, 1, norm=host.get_norm("BN", 8))
            return block.freeze()

        a, b = self.twins(build)
        assert [type(m).__name__ for m in a.modules()] == [type(m).__name__ for m in b.modules()]

    @pytest.mark.parametrize("kind", ["DeformConv", "ModulatedDeformConv"])
    def test_deformable_convolutions_have_the_same_parameters(self, kind):
        build = lambda host: getattr(host, kind)(8, 12, 3, padding=1, groups=2, deformable_groups=2)  # noqa: E731
        a, b = build(ours), build(theirs)
        assert {k: v.shape for k, v in a.state_dict().items()} == {k: v.shape for k, v in b.state_dict().items()}

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="Detectron2's deformable convolution needs CUDA")
    @pytest.mark.parametrize("kind", ["DeformConv", "ModulatedDeformConv"])
    def test_deformable_convolutions_give_the_same_numbers(self, kind):
        a, b = self.twins(lambda host: getattr(host, kind)(8, 12, 3, padding=1, groups=2, deformable_groups=2))
        inputs = [torch.randn(2, 8, 9, 9), torch.randn(2, 36, 9, 9)]
        inputs += [torch.rand(2, 18, 9, 9)] if kind == "ModulatedDeformConv" else []
        inputs = [tensor.cuda() for tensor in inputs]
        torch.testing.assert_close(a.cuda()(*inputs), b.cuda()(*inputs), **PARITY)

    @pytest.mark.parametrize("aligned", [False, True])
    @pytest.mark.parametrize("ratio", [0, 2])
    def test_roi_align(self, aligned, ratio):
        rois = torch.cat((torch.randint(0, 2, (20, 1)).float(), random_boxes(20) * 2), dim=1)
        features = torch.randn(2, 5, 40, 50)
        a, b = (host.ROIAlign((7, 5), 0.25, ratio, aligned)(features, rois) for host in (ours, theirs))
        assert a.equal(b)

    @pytest.mark.parametrize("count", [50, 3000])
    def test_nms(self, count):
        boxes, scores, groups = random_boxes(count), torch.rand(count), torch.randint(0, 5, (count,))
        assert ours.batched_nms(boxes, scores, groups, 0.5).equal(theirs.batched_nms(boxes, scores, groups, 0.5))
        assert ours.nms(boxes, scores, 0.5).equal(theirs.nms(boxes, scores, 0.5))

    @pytest.mark.parametrize("name", ["diou_loss", "ciou_loss"])
    @pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
    def test_box_losses(self, name, reduction):
        target, results = random_boxes(30), []
        boxes = random_boxes(30)
        for host in (ours, theirs):
            leaf = boxes.clone().requires_grad_()
            loss = getattr(host, name)(leaf, target, reduction=reduction)
            results.append((loss, torch.autograd.grad(loss.sum(), leaf)[0]))
        for mine, other in zip(*results):
            torch.testing.assert_close(mine, other, **F32)

    def test_cross_entropy(self):
        logits, target = torch.randn(9, 4), torch.randint(0, 4, (9,))
        assert ours.cross_entropy(logits, target).equal(theirs.cross_entropy(logits, target))
        empty = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
        assert ours.cross_entropy(*empty).equal(theirs.cross_entropy(*empty))
