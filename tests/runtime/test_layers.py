"""Convolutions with folded norms, norms, blocks, box operators and losses."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from densekit.d2.layers import (
    ASPP,
    BatchNorm2d,
    CNNBlockBase,
    Conv2d,
    DepthwiseSeparableConv2d,
    FrozenBatchNorm2d,
    NaiveSyncBatchNorm,
    ROIAlign,
    ShapeSpec,
    batched_nms,
    cat,
    ciou_loss,
    cross_entropy,
    diou_loss,
    get_norm,
    move_device_like,
    nms,
    nonzero_tuple,
)
from tests.tolerances import close

F32 = close(torch.float32)
REFUSED = (AssertionError, ValueError, KeyError)


def shake(module: nn.Module) -> nn.Module:
    """Random parameters and statistics; variances stay positive."""
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    return module


def separately(conv: Conv2d, x: torch.Tensor) -> torch.Tensor:
    """The same layer as three passes."""
    x = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    if conv.norm is not None:
        n = conv.norm
        x = F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, training=False, eps=n.eps)
    return x if conv.activation is None else torch.relu(x)


class TestConv2d:
    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("activation", [None, F.relu, nn.ReLU()])
    @pytest.mark.parametrize("training", [False, True])
    def test_frozen_norm_equals_separate_passes(self, bias, activation, training):
        conv = shake(Conv2d(6, 8, 3, 2, 1, groups=2, bias=bias, norm=FrozenBatchNorm2d(8), activation=activation))
        conv.double().train(training)
        x = torch.randn(2, 6, 9, 11, dtype=torch.float64, requires_grad=True)
        out, expected = conv(x), separately(conv, x)
        torch.testing.assert_close(out, expected, **close(torch.float64))
        inputs = (x, *conv.parameters())
        weight = torch.randn_like(out)
        for a, b in zip(torch.autograd.grad(out, inputs, weight), torch.autograd.grad(expected, inputs, weight)):
            torch.testing.assert_close(a, b, **close(torch.float64))

    @pytest.mark.parametrize("grad", [False, True])
    def test_batch_norm_in_evaluation(self, grad):
        conv = shake(Conv2d(4, 8, 3, padding=1, norm=BatchNorm2d(8), activation=F.relu)).double().eval()
        x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(conv(x), separately(conv, x), **close(torch.float64))

    def test_batch_norm_in_training_sees_the_batch(self):
        conv = Conv2d(4, 8, 3, norm=BatchNorm2d(8))
        out = conv(torch.randn(4, 4, 9, 9) * 5 + 3)
        torch.testing.assert_close(out.mean(dim=(0, 2, 3)), torch.zeros(8), atol=1e-5, rtol=0)
        assert conv.norm.num_batches_tracked == 1

    def test_names_of_parameters(self):
        conv = Conv2d(3, 8, 1, bias=False, norm=FrozenBatchNorm2d(8))
        assert list(conv.state_dict()) == [
            "weight",
            *(f"norm.{n}" for n in ("weight", "bias", "running_mean", "running_var")),
        ]
        assert [name for name, _ in conv.named_parameters()] == ["weight"]

    def test_weights_loaded_later_are_used(self):
        conv, x = Conv2d(3, 8, 1, norm=FrozenBatchNorm2d(8)), torch.randn(1, 3, 4, 4)
        conv(x)
        conv.load_state_dict(shake(copy.deepcopy(conv)).state_dict())
        torch.testing.assert_close(conv(x), separately(conv, x), **F32)

    def test_hooks_on_the_norm_run(self):
        conv, seen = shake(Conv2d(3, 8, 1, norm=FrozenBatchNorm2d(8), activation=F.relu)), []
        x = torch.randn(1, 3, 4, 4)
        expected = conv(x)
        conv.norm.register_forward_hook(lambda module, args, out: seen.append((args[0].clone(), out)))
        torch.testing.assert_close(conv(x), expected, **F32)
        torch.testing.assert_close(seen[0][0], F.conv2d(x, conv.weight, conv.bias), **F32)
        assert (seen[0][1] < 0).any() or (expected > 0).all()  # what the hook keeps is not overwritten

    def test_norm_subclass_runs_as_it_is(self):
        class Doubling(FrozenBatchNorm2d):
            def forward(self, x):
                return 2 * super().forward(x)

        plain, x = Conv2d(3, 8, 1, norm=FrozenBatchNorm2d(8)), torch.randn(1, 3, 4, 4)
        doubled = Conv2d(3, 8, 1, norm=Doubling(8))
        doubled.load_state_dict(plain.state_dict())
        torch.testing.assert_close(doubled(x), 2 * plain(x), **F32)

    def test_activation_may_need_its_output(self):
        conv = Conv2d(2, 4, 1, norm=nn.Sigmoid(), activation=F.relu)  # sigmoid differentiates by its output
        conv(torch.randn(1, 2, 3, 3)).sum().backward()
        assert conv.weight.grad.abs().sum() > 0

    @pytest.mark.parametrize("norm", ["", "FrozenBN", "GN"])
    def test_empty_batch_with_backward(self, norm):
        conv = Conv2d(4, 32, 3, padding=1, norm=get_norm(norm, 32), activation=F.relu)
        out = conv(torch.zeros(0, 4, 8, 8, requires_grad=True))
        assert out.shape == (0, 32, 8, 8)
        out.sum().backward()
        assert conv.weight.grad.abs().sum() == 0

    def test_half_precision_activations(self):
        conv = shake(Conv2d(4, 8, 3, norm=FrozenBatchNorm2d(8)))
        x = torch.randn(1, 4, 8, 8)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = conv(x)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), separately(conv, x), atol=0.2, rtol=2e-2)


class TestFrozenBatchNorm:
    def test_starts_as_identity(self):
        x = torch.randn(2, 5, 3, 3)
        torch.testing.assert_close(FrozenBatchNorm2d(5)(x), x, **F32)

    def test_with_gradient_equals_without(self):
        norm, x = shake(FrozenBatchNorm2d(5)), torch.randn(2, 5, 3, 3)
        torch.testing.assert_close(norm(x.clone().requires_grad_()), norm(x), **F32)

    def test_loads_files_without_statistics(self):
        norm = shake(FrozenBatchNorm2d(3))
        result = norm.load_state_dict({"weight": torch.full((3,), 2.0), "bias": torch.ones(3)}, strict=True)
        assert not result.missing_keys
        torch.testing.assert_close(norm(torch.ones(1, 3, 1, 1)).flatten(), torch.full((3,), 3.0), **F32)

    def test_new_files_must_be_complete(self):
        state = shake(FrozenBatchNorm2d(3)).state_dict()
        del state["running_mean"]
        with pytest.raises(RuntimeError, match="running_mean"):
            FrozenBatchNorm2d(3).load_state_dict(state)

    def test_conversion(self):
        net = nn.Sequential(Conv2d(3, 4, 1, norm=shake(nn.BatchNorm2d(4))), nn.Sequential(shake(nn.SyncBatchNorm(4))))
        x = torch.randn(2, 3, 5, 5)
        net.eval()
        before, keys = net(x), list(net.state_dict())
        assert FrozenBatchNorm2d.convert_frozen_batchnorm(net) is net
        torch.testing.assert_close(net.train()(x), before, **F32)
        assert sorted(net.state_dict()) == sorted(keys)
        assert isinstance(FrozenBatchNorm2d.convert_frozen_batchnorm(nn.BatchNorm2d(3)), FrozenBatchNorm2d)
        assert [n for n, _ in net.named_parameters()] == ["0.weight", "0.bias"]


class TestGetNorm:
    @pytest.mark.parametrize(
        "name", ["BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN"]
    )
    def test_names(self, name):
        norm = get_norm(name, 64).eval()
        x = torch.randn(2, 64, 5, 5)
        assert norm(x).shape == x.shape

    def test_none_and_callables(self):
        assert get_norm("", 4) is None and get_norm(None, 4) is None
        assert get_norm(lambda channels: nn.GroupNorm(2, channels), 4).num_groups == 2
        with pytest.raises(REFUSED):
            get_norm("Batch", 4)

    def test_layer_norm_is_over_channels(self):
        norm, x = get_norm("LN", 6), torch.randn(2, 6, 3, 4)
        expected = F.layer_norm(x.permute(0, 2, 3, 1), (6,), eps=1e-6).permute(0, 3, 1, 2)
        torch.testing.assert_close(norm(x), expected, **F32)


@pytest.mark.parametrize(("mode", "sizes"), [("", [2, 2]), ("N", [3, 1]), ("N", [3, 0])])
def test_naive_sync_batch_norm_equals_one_large_batch(mode, sizes, monkeypatch):
    """Threads stand in for processes; summing their tensors joins their graphs, as an all-reduce does."""
    from densekit.runtime.layers import norm as module

    meeting, local = threading.Barrier(2), {}

    def all_reduce(tensor: torch.Tensor) -> torch.Tensor:
        local[threading.get_ident()] = tensor
        meeting.wait()
        return sum(local.values())

    monkeypatch.setattr(module, "differentiable_all_reduce", all_reduce)
    monkeypatch.setattr(module.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(module.dist, "get_world_size", lambda: 2)
    x = torch.randn(4 if 0 not in sizes else 3, 3, 4, 4, dtype=torch.float32) * 2 + 1
    parts = [part.clone().requires_grad_() for part in x.split(sizes)]
    norms = [module.NaiveSyncBatchNorm(3, stats_mode=mode) for _ in sizes]
    with ThreadPoolExecutor(2) as pool:
        outs = list(pool.map(lambda pair: pair[0](pair[1]), zip(norms, parts)))
    (torch.cat(outs) ** 3).sum().backward()

    whole, x = nn.BatchNorm2d(3), x.requires_grad_()
    expected = whole(x)
    (expected**3).sum().backward()
    torch.testing.assert_close(torch.cat(outs), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat([part.grad for part in parts]), x.grad, atol=1e-3, rtol=1e-3)
    for norm in norms:
        torch.testing.assert_close(norm.running_mean, whole.running_mean, **F32)
        # The runtime and Detectron2 average the biased variance; torch corrects it by n / (n - 1).
        count = x.numel() / 3
        biased = 0.9 + (whole.running_var - 0.9) * (count - 1) / count
        torch.testing.assert_close(norm.running_var, biased, **F32)


def test_naive_sync_batch_norm_alone_is_batch_norm():
    x, norm = torch.randn(3, 4, 5, 5), NaiveSyncBatchNorm(4)
    torch.testing.assert_close(norm(x), nn.BatchNorm2d(4)(x), **F32)
    with pytest.raises(REFUSED):
        NaiveSyncBatchNorm(4, stats_mode="mean")


class TestBlocks:
    def test_freeze(self):
        class Block(CNNBlockBase):
            def __init__(self):
                super().__init__(3, 4, 2)
                self.conv = Conv2d(3, 4, 1, stride=2, norm=nn.BatchNorm2d(4))

        block = Block()
        assert block.freeze() is block and (block.in_channels, block.out_channels, block.stride) == (3, 4, 2)
        assert not any(p.requires_grad for p in block.parameters()) and isinstance(block.conv.norm, FrozenBatchNorm2d)

    def test_depthwise_separable(self):
        block, x = (
            DepthwiseSeparableConv2d(4, 6, norm1="BN", norm2="BN", activation1=F.relu).eval(),
            torch.randn(1, 4, 7, 7),
        )
        one = x.clone()
        one[:, 1:] = 0
        depthwise = [block.depthwise(x)[:, 0], block.depthwise(one)[:, 0]]
        torch.testing.assert_close(*depthwise, **F32)  # a channel sees only itself
        assert block(x).shape == (1, 6, 7, 7)

    @pytest.mark.parametrize("separable", [False, True])
    def test_aspp(self, separable):
        aspp = ASPP(4, 8, [1, 2, 3], norm="", activation=F.relu, use_depthwise_separable_conv=separable)
        x = torch.randn(2, 4, 12, 10, requires_grad=True)
        assert aspp(x).shape == (2, 8, 12, 10)
        aspp(x).sum().backward()
        assert all(p.grad is not None for p in aspp.parameters())

    def test_aspp_pools_the_whole_image(self):
        aspp = shake(ASPP(2, 4, [1, 1, 1], norm="", activation=F.relu))
        x = torch.zeros(1, 2, 9, 9)
        far = x.clone()
        far[..., 8, 8] = 100.0
        assert (aspp(x)[..., 0, 0] - aspp(far)[..., 0, 0]).abs().sum() > 0

    def test_aspp_checks(self):
        with pytest.raises(REFUSED):
            ASPP(2, 4, [1, 2], norm="", activation=F.relu)
        aspp = ASPP(2, 4, [1, 2, 3], norm="", activation=F.relu, pool_kernel_size=(4, 4))
        with pytest.raises(ValueError):
            aspp(torch.zeros(1, 2, 6, 8))


class TestDeformConv:
    """Only on the runtime: Detectron2's operators need CUDA."""

    def make(self, kind: str, **kwargs):
        from densekit.runtime import layers

        return getattr(layers, kind)(4, 6, 3, padding=1, **kwargs)

    def test_without_offsets_it_is_a_convolution(self):
        conv, x = self.make("DeformConv", groups=2, deformable_groups=2), torch.randn(2, 4, 7, 8)
        expected = F.conv2d(x, conv.weight, padding=1, groups=2)
        torch.testing.assert_close(conv(x, torch.zeros(2, 36, 7, 8)), expected, **F32)

    def test_offsets_are_y_then_x(self):
        conv, x = self.make("DeformConv"), torch.randn(1, 4, 9, 9)
        offset = torch.zeros(1, 9, 2, 9, 9)
        offset[:, :, 0] = 1.0
        moved = conv(x, offset.view(1, 18, 9, 9))
        still = F.conv2d(x, conv.weight, padding=1)
        torch.testing.assert_close(moved[..., 1:7, 1:8], still[..., 2:8, 1:8], **F32)

    def test_mask_weighs_the_taps(self):
        conv, x = self.make("ModulatedDeformConv"), torch.randn(1, 4, 7, 7)
        nn.init.normal_(conv.bias)
        zero, half = torch.zeros(1, 18, 7, 7), torch.full((1, 9, 7, 7), 0.5)
        expected = 0.5 * F.conv2d(x, conv.weight, padding=1) + conv.bias[:, None, None]
        torch.testing.assert_close(conv(x, zero, half), expected, **F32)

    def test_frozen_norm_is_folded_right(self):
        conv = shake(self.make("ModulatedDeformConv", norm=FrozenBatchNormOfRuntime(6), activation=F.relu))
        x, offset, mask = torch.randn(2, 4, 7, 7), torch.randn(2, 18, 7, 7), torch.rand(2, 9, 7, 7)
        out = conv(x, offset, mask)
        norm, conv.norm, conv.activation = conv.norm, None, None
        torch.testing.assert_close(out, torch.relu(norm(conv(x, offset, mask))), atol=1e-4, rtol=1e-4)

    def test_empty_batch(self):
        conv, x = self.make("DeformConv"), torch.zeros(0, 4, 7, 7, requires_grad=True)
        out = conv(x, torch.zeros(0, 18, 7, 7))
        assert out.shape == (0, 6, 7, 7)
        out.sum().backward()

    def test_refuses(self):
        with pytest.raises(ValueError):
            self.make("DeformConv", bias=True)
        with pytest.raises(ValueError):
            self.make("DeformConv", groups=4)


def FrozenBatchNormOfRuntime(channels: int) -> nn.Module:
    from densekit.runtime.layers import FrozenBatchNorm2d as Runtime

    return Runtime(channels)


class TestROIAlign:
    def test_linear_map_gives_the_centres_of_the_bins(self):
        y, x = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(50) + 0.5, indexing="ij")
        rois = torch.tensor([[0, 8.0, 12.0, 36.0, 33.0]])
        bins = ROIAlign((5, 7), 1.0, 0, aligned=True)(torch.stack((x, y))[None], rois)[0]
        torch.testing.assert_close(bins[0, 0], 8 + (torch.arange(7) + 0.5) * 4, **F32)
        torch.testing.assert_close(bins[1, :, 0], 12 + (torch.arange(5) + 0.5) * 4.2, **F32)

    def test_scale_and_legacy_alignment(self):
        features, box = torch.rand(1, 2, 16, 16), torch.tensor([[0, 8.0, 8, 40, 44]])
        scaled = ROIAlign(7, 0.25, 2, aligned=True)(features, box)
        box_of_map = box.clone()
        box_of_map[:, 1:] /= 4
        torch.testing.assert_close(scaled, ROIAlign(7, 1.0, 2, aligned=True)(features, box_of_map), **F32)
        shifted = box_of_map.clone()
        shifted[:, 1:] -= 0.5
        legacy = ROIAlign(7, 1.0, 2, aligned=False)(features, shifted)
        torch.testing.assert_close(scaled, legacy, **F32)

    def test_dtype_and_empty(self):
        align = ROIAlign((3, 3), 1.0, 0)
        assert align(torch.rand(1, 2, 8, 8).double(), torch.zeros(1, 5)).dtype == torch.float64
        assert align(torch.rand(1, 2, 8, 8), torch.zeros(0, 5)).shape == (0, 2, 3, 3)
        with pytest.raises(REFUSED):
            align(torch.rand(1, 2, 8, 8), torch.zeros(3, 4))


def slow_nms(boxes: list, scores: list, threshold: float) -> list[int]:
    def iou(a, b):
        shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
        return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)

    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


class TestNMS:
    def boxes(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        corner, size = torch.rand(count, 2) * 60 - 20, torch.rand(count, 2) * 30 + 5
        return torch.cat((corner, corner + size), dim=1), torch.rand(count)

    def test_against_plain_python(self):
        boxes, scores = self.boxes(60)
        assert nms(boxes, scores, 0.4).tolist() == slow_nms(boxes.tolist(), scores.tolist(), 0.4)

    @pytest.mark.parametrize("count", [80, 1500])  # torchvision changes its algorithm at 1000 boxes on the CPU
    def test_groups_are_independent(self, count):
        boxes, scores = self.boxes(count)
        groups = torch.randint(0, 4, (count,))
        kept = batched_nms(boxes, scores, groups, 0.5)
        assert scores[kept].equal(scores[kept].sort(descending=True).values)
        for group in range(4):
            index = (groups == group).nonzero()[:, 0]
            alone = index[nms(boxes[index], scores[index], 0.5)]
            assert sorted(kept[groups[kept] == group].tolist()) == sorted(alone.tolist())

    def test_half_precision_does_not_mix_groups(self):
        boxes = torch.tensor([[1000.0, 1000, 1010, 1010]] * 3).half()
        assert len(batched_nms(boxes, torch.rand(3), torch.tensor([0, 40, 79]), 0.5)) == 3

    def test_empty(self):
        assert batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), 0.5).shape == (0,)


class TestLosses:
    def boxes(self, count: int) -> torch.Tensor:
        corner, size = torch.rand(count, 2, dtype=torch.float64) * 5, torch.rand(count, 2, dtype=torch.float64) * 5 + 1
        return torch.cat((corner, corner + size), dim=1)

    @pytest.mark.parametrize("loss", [diou_loss, ciou_loss])
    def test_zero_for_equal_boxes_and_scale_free(self, loss):
        a, b = self.boxes(10), self.boxes(10)
        torch.testing.assert_close(loss(a, a), torch.zeros(10, dtype=torch.float64), atol=1e-6, rtol=0)
        torch.testing.assert_close(loss(a * 100, b * 100), loss(a, b), atol=1e-6, rtol=1e-6)

    def test_known_values(self):
        a, b = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2])
        assert diou_loss(a, b).item() == pytest.approx(1 - 1 / 3 + 1 / 13)
        wide = torch.tensor([0.0, 0.0, 4.0, 2.0])  # IoU 1/2, centres 1 apart, diagonal 20
        aspect = 4 / torch.pi**2 * (torch.atan(torch.tensor(2.0)).item() - torch.pi / 4) ** 2
        assert ciou_loss(a, wide).item() == pytest.approx(0.5 + 1 / 20 + aspect**2 / (0.5 + aspect), rel=1e-4)
        assert diou_loss(a, a + 10).item() == pytest.approx(1 + 200 / 288)

    def test_gradient(self):
        a, b = self.boxes(6).requires_grad_(), self.boxes(6)
        assert torch.autograd.gradcheck(lambda x: diou_loss(x, b), a)

    def test_ratio_weight_is_a_constant_in_the_gradient(self):
        a, b = self.boxes(6).requires_grad_(), self.boxes(6)
        (extra,) = torch.autograd.grad((ciou_loss(a, b) - diou_loss(a, b)).sum(), a)
        w, h = a[:, 2] - a[:, 0], a[:, 3] - a[:, 1]
        angle = torch.atan((b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1])) - torch.atan(w / h)
        aspect = 4 / torch.pi**2 * angle**2
        weight = ((ciou_loss(a, b) - diou_loss(a, b)) / aspect).detach()
        (expected,) = torch.autograd.grad((weight * aspect).sum(), a)
        torch.testing.assert_close(extra, expected, atol=1e-8, rtol=1e-6)

    @pytest.mark.parametrize("loss", [diou_loss, ciou_loss])
    def test_reductions_and_empty(self, loss):
        a, b = self.boxes(4), self.boxes(4)
        torch.testing.assert_close(loss(a, b, reduction="sum"), loss(a, b).sum())
        torch.testing.assert_close(loss(a, b, reduction="mean"), loss(a, b).mean())
        nothing = torch.zeros(0, 4, requires_grad=True)
        mean = loss(nothing, torch.zeros(0, 4), reduction="mean")
        mean.backward()
        assert mean.item() == 0

    def test_cross_entropy(self):
        logits, target = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
        assert cross_entropy(logits, target).equal(F.cross_entropy(logits, target))
        assert cross_entropy(logits, target, reduction="sum").equal(F.cross_entropy(logits, target, reduction="sum"))
        nothing = torch.zeros(0, 3, requires_grad=True)
        loss = cross_entropy(nothing, torch.zeros(0).long())
        loss.backward()
        assert loss.item() == 0 and nothing.grad.shape == (0, 3)


def test_small_helpers():
    x = torch.rand(2, 3)
    assert cat([x]) is x and cat([x, x], dim=1).shape == (2, 6)
    assert [i.tolist() for i in nonzero_tuple(torch.tensor([[0, 1], [2, 0]]))] == [[0, 1], [1, 0]]
    assert move_device_like(x, torch.zeros(1)).equal(x)
    assert ShapeSpec(channels=3) == ShapeSpec(3, None, None, None) and ShapeSpec().stride is None
