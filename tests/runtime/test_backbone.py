"""ResNet and FPN: shapes as declared, blocks against plain formulas, freezing, refusals."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from densekit.d2._host import HOST
from densekit.d2.config import get_cfg
from densekit.d2.layers import CNNBlockBase, FrozenBatchNorm2d, ShapeSpec
from densekit.d2.modeling import build_backbone
from densekit.d2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from densekit.d2.modeling.backbone.resnet import (
    BasicBlock,
    BasicStem,
    BottleneckBlock,
    DeformBottleneckBlock,
    ResNet,
    make_stage,
)
from tests.tolerances import PARITY, close

NARROW = [
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    16,
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    4,
]
VARIANTS = {
    "R18": ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64],
    "R50": NARROW,
    "R101-BN": ["MODEL.RESNETS.DEPTH", 101, "MODEL.RESNETS.NORM", "BN", *NARROW],
    "X50": ["MODEL.RESNETS.NUM_GROUPS", 4, "MODEL.RESNETS.STRIDE_IN_1X1", False, *NARROW],
    "DC5": ["MODEL.RESNETS.RES5_DILATION", 2, *NARROW],
    "deform-v1": ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True], *NARROW],
    "deform-v2": [
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE",
        [False, True, True, True],
        "MODEL.RESNETS.DEFORM_MODULATED",
        True,
        "MODEL.RESNETS.DEFORM_NUM_GROUPS",
        2,
        *NARROW,
    ],
}


def resnet_cfg(options=()):
    cfg = get_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES = ["stem", "res2", "res3", "res4", "res5"]
    cfg.merge_from_list(list(options))
    return cfg


def tiny_fpn(**options):
    cfg = resnet_cfg(NARROW)
    return FPN(build_backbone(cfg), ["res2", "res3", "res4", "res5"], 6, **options)


def skip_where_the_host_cannot(modulated):
    if modulated and HOST == "detectron2":
        pytest.skip("Detectron2's modulated deformable convolution needs a GPU")


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_have_the_declared_channels_and_strides(variant):
    skip_where_the_host_cannot(modulated=variant == "deform-v2")
    backbone = build_backbone(resnet_cfg(VARIANTS[variant])).eval()
    with torch.no_grad():
        features = backbone(torch.rand(2, 3, 64, 96))
    shapes = backbone.output_shape()
    assert list(features) == list(shapes) == ["stem", "res2", "res3", "res4", "res5"]
    for name, feature in features.items():
        stride = shapes[name].stride
        assert feature.shape == (2, shapes[name].channels, 64 // stride, 96 // stride), name
        assert feature.isfinite().all() and feature.std() > 0, name
    assert shapes["res5"].stride == (16 if variant == "DC5" else 32)


def test_batch_equals_single_images():
    backbone = build_backbone(resnet_cfg(NARROW)).eval()
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        together, single = backbone(images), [backbone(image[None]) for image in images]
    for name, feature in together.items():
        torch.testing.assert_close(feature, torch.cat([one[name] for one in single]), **close(torch.float32))


def test_blocks_are_the_textbook_formulas():
    x = torch.randn(2, 4, 8, 8)
    basic = BasicBlock(4, 6, stride=2, norm="")
    inner = F.relu(F.conv2d(x, basic.conv1.weight, stride=2, padding=1))
    expected = F.relu(F.conv2d(inner, basic.conv2.weight, padding=1) + F.conv2d(x, basic.shortcut.weight, stride=2))
    torch.testing.assert_close(basic(x), expected)

    for in_1x1 in (True, False):
        block = BottleneckBlock(4, 8, bottleneck_channels=6, stride=2, num_groups=3, norm="", stride_in_1x1=in_1x1)
        first, second = (2, 1) if in_1x1 else (1, 2)
        y = F.relu(F.conv2d(x, block.conv1.weight, stride=first))
        y = F.relu(F.conv2d(y, block.conv2.weight, stride=second, padding=1, groups=3))
        expected = F.relu(F.conv2d(y, block.conv3.weight) + F.conv2d(x, block.shortcut.weight, stride=2))
        torch.testing.assert_close(block(x), expected)


def test_block_of_equal_channels_passes_its_input_on_and_leaves_it_unchanged():
    block = BottleneckBlock(8, 8, bottleneck_channels=4, norm="FrozenBN")
    assert block.shortcut is None
    nn.init.zeros_(block.conv3.weight)
    x = torch.randn(1, 8, 6, 6)
    before = x.clone()
    torch.testing.assert_close(block(x), F.relu(x))
    assert torch.equal(x, before)


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_block_starts_as_a_plain_one(modulated):
    skip_where_the_host_cannot(modulated)
    plain = BottleneckBlock(8, 8, bottleneck_channels=4, norm="")
    deform = DeformBottleneckBlock(8, 8, bottleneck_channels=4, norm="", deform_modulated=modulated)
    missing = deform.load_state_dict(plain.state_dict(), strict=False)
    assert set(missing.missing_keys) == {"conv2_offset.weight", "conv2_offset.bias"} and not missing.unexpected_keys
    x = torch.randn(1, 8, 7, 9)
    with torch.no_grad():
        # No offsets: the samples lie on the grid. The mask of version 2 starts at sigmoid(0), one half.
        inner = F.conv2d(F.relu(plain.conv1(x)), plain.conv2.weight, padding=1) * (0.5 if modulated else 1)
        expected = F.relu(x + plain.conv3(F.relu(inner)))
        torch.testing.assert_close(deform(x), expected, **close(torch.float32))


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 5])
def test_freezing_stops_gradients_and_statistics_of_the_first_stages(freeze_at):
    cfg = resnet_cfg(["MODEL.BACKBONE.FREEZE_AT", freeze_at, "MODEL.RESNETS.NORM", "BN", *NARROW])
    backbone = build_backbone(cfg).train()
    for index, name in enumerate(["stem", "res2", "res3", "res4", "res5"], start=1):
        stage = backbone.get_submodule(name)
        frozen = index <= freeze_at
        assert all(parameter.requires_grad != frozen for parameter in stage.parameters()), name
        norms = [m for m in stage.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
        assert norms and all(isinstance(m, FrozenBatchNorm2d) == frozen for m in norms), name


def test_every_trainable_parameter_gets_a_gradient():
    backbone = build_backbone(resnet_cfg(["MODEL.RESNETS.NORM", "FrozenBN", *NARROW])).train()
    sum(feature.mean() for feature in backbone(torch.rand(1, 3, 64, 64)).values()).backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


class TestOverwriting:
    """In inference on the CPU the runtime's blocks may write over their input; nobody must see a difference."""

    def backbone(self, *options):
        torch.manual_seed(0)
        model = build_backbone(resnet_cfg([*NARROW, *options])).eval()
        for name, value in model.state_dict().items():
            if "norm.weight" in name:
                value.uniform_(0.2, 0.6)
        return model

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize("options", [(), ("MODEL.RESNETS.NORM", "BN"), ("MODEL.RESNETS.NORM", "GN")])
    def test_maps_are_those_of_training(self, options, memory_format, monkeypatch):
        if HOST == "builtin":  # bands of a few lines
            monkeypatch.setattr(f"{BottleneckBlock.__module__}._BAND_BYTES", 2000)
        if "GN" in options:
            options = (*options, *[word for key in NARROW[::2] for word in (key, 32)])
        model = self.backbone(*options)
        images = torch.randn(2, 3, 70, 90).to(memory_format=memory_format)
        before = images.clone()
        with torch.no_grad():
            sparing = model(images)
        assert torch.equal(images, before)
        for name, expected in model(images).items():
            torch.testing.assert_close(sparing[name], expected, **close(torch.float32))

    def test_hooks_see_every_map(self):
        model, seen = self.backbone(), []
        handles = [block.register_forward_hook(lambda _, x, y: seen.append((x[0], y))) for block in model.res3]
        with torch.no_grad():
            model(torch.randn(1, 3, 64, 64).to(memory_format=torch.channels_last))
            for handle in handles:
                handle.remove()
            for block, (x, y) in zip(model.res3, seen):
                torch.testing.assert_close(block(x), y)

    def test_blocks_of_users_may_return_what_they_got(self):
        class Same(CNNBlockBase):
            def forward(self, x):
                return x

        blocks = [Same(8, 8, 1), BottleneckBlock(8, 8, bottleneck_channels=4, norm="FrozenBN")]
        model = ResNet(BasicStem(3, 8), [blocks], out_features=["stem", "res2"]).eval()
        images = torch.randn(1, 3, 32, 32).to(memory_format=torch.channels_last)
        with torch.no_grad():
            torch.testing.assert_close(model(images)["stem"], model.stem(images))

    @pytest.mark.skipif(HOST != "builtin", reason="Detectron2's blocks do not do so")
    def test_the_widest_map_exists_once(self, monkeypatch):
        narrow, places = BottleneckBlock._narrow, []
        monkeypatch.setattr(BottleneckBlock, "_narrow", lambda self, x: places.append(x.data_ptr()) or narrow(self, x))
        model, images = self.backbone(), torch.randn(1, 3, 64, 64).to(memory_format=torch.channels_last)
        with torch.no_grad():
            maps = model(images)
        assert places[1:3] == [maps["res2"].data_ptr()] * 2 and places[0] == maps["stem"].data_ptr()


def test_stages_that_nothing_reads_are_left_out():
    cfg = resnet_cfg([*NARROW, "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4"]])
    backbone = build_backbone(cfg)
    assert not any(name.startswith("res5") for name, _ in backbone.named_parameters())
    assert list(backbone.output_shape()) == ["res3", "res4"]


def test_classifier_pools_the_last_stage():
    stem, stage = BasicStem(3, 4, norm=""), make_stage(BasicBlock, 1, in_channels=4, out_channels=8, norm="")
    model = ResNet(stem, [stage], num_classes=5)
    x = torch.rand(2, 3, 32, 32)
    expected = model.linear(model.get_submodule("res2")(model.stem(x)).mean(dim=(2, 3)))
    torch.testing.assert_close(model(x)["linear"], expected)


def test_make_stage_gives_each_block_its_own_value():
    blocks = make_stage(
        BottleneckBlock,
        3,
        in_channels=4,
        out_channels=8,
        bottleneck_channels=4,
        stride_per_block=[2, 1, 1],
        dilation_per_block=[1, 1, 2],
        norm="",
    )
    assert all(isinstance(block, CNNBlockBase) for block in blocks)
    assert [block.stride for block in blocks] == [2, 1, 1]
    assert [block.in_channels for block in blocks] == [4, 8, 8]
    assert [block.conv2.dilation for block in blocks] == [(1, 1), (1, 1), (2, 2)]


@pytest.mark.parametrize("depth, parameters", [(18, 11176512), (34, 21284672), (50, 23508032), (101, 42500160)])
def test_default_stages_have_the_published_number_of_parameters(depth, parameters):
    """torchvision's models without their linear layer of 1000 classes."""
    with torch.device("meta"):
        model = ResNet(BasicStem(norm="BN"), ResNet.make_default_stages(depth, norm="BN"))
        assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
def test_fpn_adds_each_level_to_the_doubled_one_above(fuse_type):
    fpn = tiny_fpn(top_block=LastLevelMaxPool(), fuse_type=fuse_type).eval()
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        found, bottom_up = fpn(x), fpn.bottom_up(x)
        merged, expected = None, {}
        for level in (5, 4, 3, 2):
            lateral = getattr(fpn, f"fpn_lateral{level}")(bottom_up[f"res{level}"])
            if merged is not None:
                doubled = merged.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                lateral = (lateral + doubled) / (2 if fuse_type == "avg" else 1)
            merged = lateral
            expected[f"p{level}"] = getattr(fpn, f"fpn_output{level}")(merged)
        expected["p6"] = expected["p5"][:, :, ::2, ::2]
    assert list(found) == ["p2", "p3", "p4", "p5", "p6"]
    for name, feature in expected.items():
        torch.testing.assert_close(found[name], feature, **close(torch.float32))
        assert fpn.output_shape()[name] == ShapeSpec(channels=6, stride=64 // found[name].shape[2])
    assert fpn.size_divisibility == 32


def test_fpn_top_block_starts_from_backbone_or_pyramid():
    for source, channels in (("res5", 128), ("p5", 6)):
        fpn = tiny_fpn(top_block=LastLevelP6P7(channels, 6, in_feature=source)).eval()
        x = torch.rand(1, 3, 128, 128)
        with torch.no_grad():
            found = fpn(x)
            c5 = {**fpn.bottom_up(x), **found}[source]
            p6 = fpn.top_block.p6(c5)
            torch.testing.assert_close(found["p6"], p6, **PARITY)
            torch.testing.assert_close(found["p7"], fpn.top_block.p7(F.relu(p6)), **PARITY)
        assert fpn.output_shape()["p7"].stride == 128


def test_fpn_norm_replaces_the_bias_and_square_pad_is_passed_on():
    fpn = FPN(build_backbone(resnet_cfg(NARROW)), ["res4", "res5"], 32, norm="GN", square_pad=1024)
    assert fpn.fpn_lateral5.bias is None and fpn.fpn_output4.norm is not None
    assert fpn.padding_constraints["square_size"] == 1024


def test_fpn_gradients_are_those_of_the_formula():
    """The in-place sum must not disturb what the backward pass reads."""
    fpn = tiny_fpn()
    x = torch.rand(1, 3, 32, 32)
    sum((feature * feature).sum() for feature in fpn(x).values()).backward()
    found = {name: p.grad.clone() for name, p in fpn.named_parameters() if p.grad is not None}
    fpn.zero_grad()
    bottom_up, merged, total = fpn.bottom_up(x), None, 0
    for level in (5, 4, 3, 2):
        lateral = getattr(fpn, f"fpn_lateral{level}")(bottom_up[f"res{level}"])
        merged = lateral if merged is None else lateral + F.interpolate(merged, scale_factor=2.0, mode="nearest")
        total = total + getattr(fpn, f"fpn_output{level}")(merged).pow(2).sum()
    total.backward()
    for name, parameter in fpn.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-3 * parameter.grad.abs().max())


def test_wrong_settings_are_refused_with_the_value():
    from densekit.runtime.config import get_cfg as runtime_cfg
    from densekit.runtime.modeling.backbone import FPN as RuntimeFPN
    from densekit.runtime.modeling.backbone import build_backbone as build
    from densekit.runtime.modeling.backbone import make_stage as stage

    def cfg(*options):
        node = runtime_cfg()
        node.merge_from_list([*NARROW, *options])
        return node

    with pytest.raises(ValueError, match="depth 49"):
        build(cfg("MODEL.RESNETS.DEPTH", 49))
    with pytest.raises(ValueError, match="RES2_OUT_CHANNELS must be 64 for ResNet-18, got 16"):
        build(cfg("MODEL.RESNETS.DEPTH", 18))
    with pytest.raises(ValueError, match="RES5_DILATION=3"):
        build(cfg("MODEL.RESNETS.RES5_DILATION", 3))
    with pytest.raises(ValueError, match="res9"):
        build(cfg("MODEL.RESNETS.OUT_FEATURES", ["res9"]))
    with pytest.raises(ValueError, match="stride_per_block"):
        stage(BasicBlock, 2, in_channels=4, out_channels=4, stride_per_block=[1])
    with pytest.raises(ValueError, match="both stride"):
        stage(BasicBlock, 1, in_channels=4, out_channels=4, stride_per_block=[1], stride=1)
    backbone = build(cfg("MODEL.RESNETS.OUT_FEATURES", ["res2", "res4"]))
    with pytest.raises(ValueError, match=r"\[4, 16\]"):
        RuntimeFPN(backbone, ["res2", "res4"], 8)
    with pytest.raises(ValueError, match="res3"):
        RuntimeFPN(backbone, ["res3"], 8)
    with pytest.raises(ValueError, match="median"):
        RuntimeFPN(backbone, ["res2"], 8, fuse_type="median")
    with pytest.raises(ValueError, match=r"\(3, 32, 32\)"):
        backbone(torch.rand(3, 32, 32))


def test_fpn_returns_plain_layout_and_takes_any():
    """Its convolutions may keep the channels of a pixel together; users of the maps may call ``view`` on them."""
    fpn = tiny_fpn(top_block=LastLevelMaxPool()).eval()
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        plain, other = fpn(x), fpn(x.contiguous(memory_format=torch.channels_last))
    for name, feature in plain.items():
        torch.testing.assert_close(other[name], feature, **PARITY)
        assert HOST == "detectron2" or feature.is_contiguous(), name


@pytest.mark.parametrize("norm", ["GN", "BN"])
def test_norms_that_take_statistics_see_the_plain_layout(norm):
    """On the CPU they lose digits where the channels of a pixel lie together."""
    fpn, seen = FPN(build_backbone(resnet_cfg(NARROW)), ["res4", "res5"], 32, norm=norm).train(), []
    for module in fpn.modules():
        if isinstance(module, nn.GroupNorm | nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].is_contiguous()))
    fpn(torch.rand(2, 3, 64, 64))
    assert len(seen) == 4 and all(seen)
