"""UPerNet's head: both conventions against a plain forward from their own weights, CARAFE, losses, bad configs."""

import re

import pytest
import torch
import torch.nn.functional as F

from densekit.config_defaults import default_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import SEM_SEG_HEADS_REGISTRY, build_backbone
from densekit.layers import CARAFE
from densekit.modeling.fcn_head import FCNHead
from densekit.projects.upernet.head import PyramidPooling, UPerHead
from densekit.weights import convert_file
from densekit.weights.parts import find_layout
from tests.tolerances import close

WIDTHS = {"res2": 6, "res3": 8, "res4": 10, "res5": 12}
CHANNELS, CLASSES = 8, 5
SHAPES = {name: ShapeSpec(channels=width, stride=4 * 2**k) for k, (name, width) in enumerate(WIDTHS.items())}


def maps(height: int = 18, width: int = 26, n: int = 2, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Maps of sides that no level halves evenly."""
    features = {}
    for name, channels in WIDTHS.items():
        features[name] = torch.randn(n, channels, height, width, dtype=dtype)
        height, width = (height + 1) // 2, (width + 1) // 2
    return features


def head(**options) -> UPerHead:
    return UPerHead(SHAPES, channels=CHANNELS, num_classes=CLASSES, **options)


def auxiliary() -> FCNHead:
    return FCNHead(
        in_feature="res4",
        in_channels=WIDTHS["res4"],
        channels=CHANNELS,
        num_convs=1,
        num_classes=CLASSES,
        norm="BN",
        stride=16,
        loss_weight=0.4,
    )


# The authors' names of the modules, with their convolution as 0 and norm as 1, and mmsegmentation's, with conv and bn.
AUTHORS = {
    "branch": "ppm_conv.{}",
    "project": "ppm_last_conv",
    "lateral": "fpn_in.{}",
    "output": "fpn_out.{}.0",
    "fuse": "conv_last.0",
    "scores": "conv_last.1",
}
MMSEG = {
    "branch": "decode_head.psp_modules.{}.1",
    "project": "decode_head.bottleneck",
    "lateral": "decode_head.lateral_convs.{}",
    "output": "decode_head.fpn_convs.{}",
    "fuse": "decode_head.fpn_bottleneck",
    "scores": "decode_head.conv_seg",
    "auxiliary": "auxiliary_head.convs.0",
    "auxiliary_scores": "auxiliary_head.conv_seg",
}


class Plain:
    """A file of weights in foreign names, and the forward pass that is read off it with torch's functions only."""

    def __init__(self, names: dict[str, str], conv: str, norm: str) -> None:
        self.names, self.conv, self.norm = names, conv, norm
        self.weights: dict[str, torch.Tensor] = {}
        fused, pooled = 4 * CHANNELS, WIDTHS["res5"] + 4 * CHANNELS
        for k in range(4):
            self._add_block(names["branch"].format(k), WIDTHS["res5"], 1)
        self._add_block(names["project"], pooled, 3)
        for k, width in enumerate(list(WIDTHS.values())[:3]):
            self._add_block(names["lateral"].format(k), width, 1)
            self._add_block(names["output"].format(k), CHANNELS, 3)
        self._add_block(names["fuse"], fused, 3)
        self._add_classifier(names["scores"])
        if "auxiliary" in names:
            self._add_block(names["auxiliary"], WIDTHS["res4"], 3)
            self._add_classifier(names["auxiliary_scores"])

    def _add_block(self, name: str, inputs: int, side: int) -> None:
        self.weights[f"{name}.{self.conv}.weight"] = torch.randn(CHANNELS, inputs, side, side) / 5
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.weights[f"{name}.{self.norm}.{part}"] = torch.rand(CHANNELS) + 0.1
        self.weights[f"{name}.{self.norm}.num_batches_tracked"] = torch.tensor(7)

    def _add_classifier(self, name: str) -> None:
        self.weights[f"{name}.weight"] = torch.randn(CLASSES, CHANNELS, 1, 1)
        self.weights[f"{name}.bias"] = torch.randn(CLASSES)

    def block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        weight = self.weights[f"{name}.{self.conv}.weight"]
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        mean, var, gain, bias = (
            self.weights[f"{name}.{self.norm}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * gain + bias).clamp(min=0)

    def classify(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def scores(self, features: dict[str, torch.Tensor], enlarge_first: bool) -> torch.Tensor:
        def to(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
            return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)

        c2, c3, c4, c5 = features.values()
        pooled = [c5]
        for k, scale in enumerate((1, 2, 3, 6)):
            name, cells = self.names["branch"].format(k), F.adaptive_avg_pool2d(c5, scale)
            pooled.append(self.block(name, to(cells, c5)) if enlarge_first else to(self.block(name, cells), c5))
        top = self.block(self.names["project"], torch.cat(pooled, 1))
        m4 = self.block(self.names["lateral"].format(2), c4)
        m4 = m4 + to(top, m4)
        m3 = self.block(self.names["lateral"].format(1), c3)
        m3 = m3 + to(m4, m3)
        m2 = self.block(self.names["lateral"].format(0), c2)
        m2 = m2 + to(m3, m2)
        p2, p3, p4 = (self.block(self.names["output"].format(k), m) for k, m in enumerate((m2, m3, m4)))
        fused = self.block(self.names["fuse"], torch.cat([p2, to(p3, p2), to(p4, p2), to(top, p2)], 1))
        return self.classify(self.names["scores"], fused)


def loaded(weights: dict[str, torch.Tensor], **options) -> UPerHead:
    """The head with foreign weights, all of which it must want, and it must want no others but the norms' counters."""
    layout = find_layout(weights)
    assert layout is not None
    converted = {name.removeprefix("sem_seg_head."): value for name, value in layout.convert(weights).items()}
    model = head(**options).eval()
    missing, unexpected = model.load_state_dict(converted, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return model


def test_authors_decoder_gives_its_scores():
    plain, features = Plain(AUTHORS, "0", "1"), maps()
    extra = {f"{AUTHORS['fuse']}.1.{name}": torch.ones(CHANNELS) for name in ("_tmp_running_mean", "_tmp_running_var")}
    model = loaded(plain.weights | extra, convention="csail")
    expected = plain.scores(features, enlarge_first=True)
    torch.testing.assert_close(model.layers(features), expected, **close(torch.float32))


def test_mmsegmentation_head_gives_its_scores():
    plain, features = Plain(MMSEG, "conv", "bn"), maps()
    model = loaded(plain.weights, convention="mmseg", auxiliary=auxiliary())
    expected = plain.scores(features, enlarge_first=False)
    torch.testing.assert_close(model.layers(features), expected, **close(torch.float32))
    assert model.auxiliary is not None
    expected = plain.classify(MMSEG["auxiliary_scores"], plain.block(MMSEG["auxiliary"], features["res4"]))
    torch.testing.assert_close(model.auxiliary.layers(features), expected, **close(torch.float32))


def test_conventions_differ_on_the_same_weights():
    plain, features = Plain(AUTHORS, "0", "1"), maps()
    ours, theirs = loaded(plain.weights, convention="csail"), loaded(plain.weights, convention="mmseg")
    assert (ours.layers(features) - theirs.layers(features)).abs().max() > 0.01


def openmmlab_resnet(names: list[str]) -> list[str]:
    """The names of Detectron2's ResNet in OpenMMLab's vocabulary."""
    renamed = []
    for name in names:
        name = re.sub(r"^res(\d)", lambda m: f"layer{int(m[1]) - 1}", name.removeprefix("stem."))
        name = re.sub(r"conv(\d)\.norm", r"bn\1", name)
        name = name.replace("shortcut.norm", "downsample.1").replace("shortcut.weight", "downsample.0.weight")
        renamed.append(f"backbone.{name}")
    return renamed


def test_whole_mmsegmentation_checkpoint_is_consumed(tmp_path):
    cfg = default_config()
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.NORM = "build_resnet_backbone", "BN"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    backbone = {name: value for name, value in build_backbone(cfg).state_dict().items() if "num_batches" not in name}
    weights = Plain(MMSEG, "conv", "bn").weights | dict(zip(openmmlab_resnet(list(backbone)), backbone.values()))
    torch.save({"meta": {}, "state_dict": weights}, tmp_path / "theirs.pth")
    layout, _ = convert_file(tmp_path / "theirs.pth", tmp_path / "ours.pth")
    assert layout == "mmsegmentation"
    converted = torch.load(tmp_path / "ours.pth", weights_only=True)["model"]
    wanted = {f"sem_seg_head.{name}" for name in head(auxiliary=auxiliary()).state_dict()}
    wanted |= {f"backbone.{name}" for name in backbone}
    assert set(converted) == {name for name in wanted if not name.endswith("num_batches_tracked")}
    for name, value in backbone.items():
        torch.testing.assert_close(converted[f"backbone.{name}"], value)


@pytest.mark.parametrize("stranger", ["backbone.stem.9.weight", "decode_head.psp_modules.0.2.conv.weight"])
def test_other_stems_and_parts_are_refused_by_name(stranger):
    weights = Plain(MMSEG, "conv", "bn").weights | {stranger: torch.zeros(1)}
    layout = find_layout(weights)
    assert layout is not None
    with pytest.raises(ValueError, match=re.escape(stranger)):
        layout.convert(weights)


def test_parameters_are_as_published_for_swin_tiny():
    shapes = {f"res{k + 2}": ShapeSpec(channels=96 * 2**k, stride=4 * 2**k) for k in range(4)}
    extra = FCNHead(
        in_feature="res4", in_channels=384, channels=256, num_convs=1, num_classes=150, norm="BN", stride=16
    )
    with torch.device("meta"):
        model = UPerHead(shapes, channels=512, num_classes=150)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 31.50
    assert round(sum(p.numel() for p in extra.parameters()) / 1e6, 2) == 0.92


@pytest.mark.parametrize("convention", ["mmseg", "csail"])
def test_each_place_of_carafe_works_alone_and_all_together(convention):
    features, makers = maps(n=1), {"ppm_upsampler": CARAFE, "fpn_upsampler": CARAFE, "fuse_upsampler": CARAFE}
    plain = head(convention=convention).eval()
    for chosen in [*([place] for place in makers), list(makers)]:
        model = head(convention=convention, **{place: makers[place] for place in chosen}).eval()
        new = {name for name, _ in model.named_parameters()} - {name for name, _ in plain.named_parameters()}
        assert {re.split(r"\.\d", name)[0].replace(".", "_") for name in new} == {f"{place}s" for place in chosen}
        model.load_state_dict(plain.state_dict(), strict=False)
        scores = model.layers(features)
        assert scores.shape == (1, CLASSES, 18, 26)
        assert not torch.allclose(scores, plain.layers(features), atol=1e-3)
        scores.square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for name, p in model.named_parameters() if name in new)


def test_fuse_works_its_way_down_from_the_coarsest_level():
    """With nearest-neighbour doubling the steps add up to one enlargement of each level, in the same order."""
    model = head(fuse_upsampler=lambda channels: torch.nn.Upsample(scale_factor=2)).eval()
    levels = [torch.randn(1, CHANNELS, 16 // 2**k, 24 // 2**k) for k in range(4)]
    expected = [level.repeat_interleave(2**k, 2).repeat_interleave(2**k, 3) for k, level in enumerate(levels)]
    torch.testing.assert_close(model._side_by_side(levels), torch.cat(expected, 1))
    seen = [layer.channels for layer in head(fuse_upsampler=CARAFE).fuse_upsamplers]
    assert seen == [3 * CHANNELS, 2 * CHANNELS, CHANNELS]  # finest step first


def test_pooling_interpolates_to_half_before_a_layer():
    class Recorder(torch.nn.Upsample):
        def forward(self, x):
            sizes.append(tuple(x.shape[-2:]))
            return super().forward(x)

    sizes: list[tuple[int, ...]] = []
    pooling = PyramidPooling(
        4, 4, scales=(1, 3), enlarge_first=False, upsampler=lambda _: Recorder(scale_factor=2), norm=""
    )
    assert pooling(torch.randn(1, 4, 7, 10)).shape == (1, 4, 7, 10)
    assert sizes == [(4, 5), (4, 5)]


def test_loss_at_every_pixel_is_that_of_enlarged_scores():
    model, scores = head(), torch.randn(1, CLASSES, 3, 4, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (1, 10, 15))
    labels[:, :4] = 255
    big = F.interpolate(scores.float(), (12, 16), mode="bilinear", align_corners=False)[..., :10, :15]
    total, count = 0.0, 0
    for y in range(4, 10):
        for x in range(15):
            total -= float(big[0, :, y, x].log_softmax(0)[labels[0, y, x]])
            count += 1
    torch.testing.assert_close(float(model.losses(scores, labels)["loss_sem_seg"]), total / count, atol=1e-5, rtol=1e-5)


def test_loss_at_the_stride_takes_the_labels_at_the_centres():
    model, scores = head(convention="csail"), torch.randn(1, CLASSES, 3, 4)
    labels = torch.randint(0, CLASSES, (1, 11, 14))  # the last column's centres are at 14, outside
    labels[0, 6, 2] = 255
    losses = [
        -float(scores[0, :, i, j].log_softmax(0)[labels[0, 4 * i + 2, 4 * j + 2]])
        for i in range(3)
        for j in range(3)
        if (i, j) != (1, 0)
    ]
    expected = sum(losses) / len(losses)
    torch.testing.assert_close(float(model.losses(scores, labels)["loss_sem_seg"]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("convention", ["mmseg", "csail"])
def test_crop_without_labels_has_no_loss_and_finite_gradients(convention):
    model = head(convention=convention, auxiliary=auxiliary())
    _, losses = model(maps(), torch.full((2, 72, 104), 255))
    assert [loss.item() for loss in losses.values()] == [0.0, 0.0]
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_auxiliary_loss_is_weighted_and_only_in_training():
    torch.manual_seed(1)
    model, features, labels = head(auxiliary=auxiliary()), maps(), torch.randint(0, CLASSES, (2, 72, 104))
    nothing, losses = model(features, labels)
    assert nothing is None and set(losses) == {"loss_sem_seg", "loss_sem_seg_auxiliary"}
    scores = model.auxiliary.layers(features)
    expected = F.cross_entropy(
        F.interpolate(scores, scale_factor=16, mode="bilinear", align_corners=False)[..., :72, :104], labels
    )
    torch.testing.assert_close(losses["loss_sem_seg_auxiliary"], 0.4 * expected)
    results, losses = model.eval()(features)
    assert not losses and results.shape == (2, CLASSES, 72, 104)
    torch.testing.assert_close(results, F.interpolate(model.layers(features), scale_factor=4, mode="bilinear"))


def test_batched_scores_are_those_of_single_images():
    model, features = head(ppm_upsampler=CARAFE, fpn_upsampler=CARAFE, fuse_upsampler=CARAFE).eval(), maps()
    single = torch.cat([model.layers({name: x[k : k + 1] for name, x in features.items()}) for k in range(2)])
    torch.testing.assert_close(model.layers(features), single, **close(torch.float32))


def configured(**keys) -> torch.nn.Module:
    cfg = default_config()
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = list(SHAPES)
    cfg.MODEL.SEM_SEG_HEAD.NAME, cfg.MODEL.SEM_SEG_HEAD.NORM = "UPerHead", "BN"
    cfg.merge_from_list([part for key, value in keys.items() for part in (key.replace("__", "."), value)])
    return SEM_SEG_HEADS_REGISTRY.get("UPerHead")(cfg, SHAPES)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL__UPERNET__CONVENTION", "openmmlab"),
        ("MODEL__UPERNET__FPN_UPSAMPLER", "cubic"),
        ("MODEL__SEM_SEG_HEAD__IN_FEATURES", ["res2", "p5"]),
        ("MODEL__SEM_SEG_HEAD__COMMON_STRIDE", 8),
        ("MODEL__SEM_SEG_HEAD__AUXILIARY__IN_FEATURE", "stage3"),
    ],
)
def test_bad_value_is_refused_with_its_key(key, value):
    with pytest.raises(ValueError, match=key.replace("__", r"\.")):
        configured(**{key: value})


def test_keys_reach_the_head():
    model = configured(
        MODEL__UPERNET__CONVENTION="csail",
        MODEL__UPERNET__PPM_UPSAMPLER="carafe",
        MODEL__UPERNET__FUSE_UPSAMPLER="deconv",
        MODEL__UPERNET__POOL_SCALES=[1, 4],
        MODEL__SEM_SEG_HEAD__CONVS_DIM=16,
        MODEL__SEM_SEG_HEAD__DROPOUT=0.3,
        MODEL__SEM_SEG_HEAD__AUXILIARY__IN_FEATURE="res4",
        MODEL__SEM_SEG_HEAD__AUXILIARY__CONVS_DIM=24,
        MODEL__SEM_SEG_HEAD__AUXILIARY__NUM_CONV=2,
        MODEL__SEM_SEG_HEAD__AUXILIARY__LOSS_WEIGHT=0.2,
    )
    assert model.loss_stride == 4 and model.ppm.scales == (1, 4) and model.ppm.enlarge_first
    assert [type(layer).__name__ for layer in model.ppm.upsamplers] == ["CARAFE"] * 2
    assert model.fpn_upsamplers is None and type(model.fuse_upsamplers[0]).__name__ == "Deconvolution"
    assert model.dropout.p == model.auxiliary.dropout.p == 0.3
    assert [conv.out_channels for conv in model.auxiliary.convs] == [24, 24] and model.auxiliary.loss_weight == 0.2
