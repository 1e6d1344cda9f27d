"""CARAFE in pyramid and mask head: the authors' records, the host's own results, mmdetection's weights, the drawing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from densekit.checkpoint import Checkpointer
from densekit.config import load_config
from densekit.d2._host import HOST
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import BACKBONE_REGISTRY, build_backbone, build_mask_head, build_model
from densekit.layers import UPSAMPLERS, build_upsampler
from densekit.modeling.fpn import UpsamplerFPN
from densekit.ops.carafe import carafe
from densekit.projects.carafe.draw_kernels import draw_kernels, predict_kernels, trace
from densekit.weights import convert_file, read_checkpoint
from densekit.weights.parts import find_layout
from tests.name_seeded import name_seeded
from tests.projects.carafe.recorded import CONFIG, GivenMaps, check
from tests.recorded_cases import assert_agrees
from tests.tolerances import PARITY

ROOT = Path(__file__).resolve().parents[3]
IMAGE = ShapeSpec(channels=3)


@pytest.fixture(scope="module")
def recorded(reference_dir):
    return torch.load(reference_dir / "carafe.pt")


@pytest.fixture(scope="module")
def authors_weights(recorded):
    """mmdetection's Mask R-CNN with CARAFE in full size, under mmdetection's names."""
    return {name: name_seeded(name, shape) for name, shape in recorded["full_manifest"].items()}


def pyramid(channels, width=16, finest=2, **options):
    bottom_up = GivenMaps(channels, finest)
    options.setdefault("upsampler", lambda c: build_upsampler("nearest", c))
    return UpsamplerFPN(bottom_up, list(bottom_up.output_shape()), width, **options)


def config(*options):
    return load_config(CONFIG, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *options])


def test_recorded(reference_dir):
    assert_agrees(check, reference_dir / "carafe.pt")


class TestPyramid:
    @pytest.mark.parametrize("norm", ["", "GN"])
    @pytest.mark.parametrize("fuse", ["sum", "avg"])
    def test_nearest_is_the_hosts_own(self, norm, fuse):
        options = ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 32]
        options += ["MODEL.FPN.NORM", norm, "MODEL.FPN.FUSE_TYPE", fuse]
        options += ["MODEL.FPN.UPSAMPLER", "nearest", "MODEL.FPN.TOP_LEVEL", "maxpool"]
        own = build_backbone(config(*options), IMAGE)
        host = build_backbone(config(*options, "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"), IMAGE)
        own.load_state_dict(host.state_dict())
        assert own.output_shape() == host.output_shape()
        assert (own.size_divisibility, own.padding_constraints) == (host.size_divisibility, host.padding_constraints)
        image = torch.randn(2, 3, 64, 96)
        results = own(image), host(image)
        exact = {"atol": 0, "rtol": 0} if HOST == "builtin" and not norm else PARITY  # else in another memory format
        torch.testing.assert_close(*results, **exact)
        for result in results:
            sum(x.square().sum() for x in result.values()).backward()
        expected = dict(host.named_parameters())
        for name, parameter in own.named_parameters():
            grad, wanted = parameter.grad, expected.pop(name).grad
            assert (grad is None) == (wanted is None)
            if grad is not None:
                torch.testing.assert_close(grad, wanted, atol=1e-4 * wanted.abs().max().item(), rtol=1e-4)
        assert not expected

    @pytest.mark.parametrize("top_level", ["maxpool", "conv"])
    @pytest.mark.parametrize("name", UPSAMPLERS)
    def test_every_upsampler_learns(self, name, top_level):
        model = pyramid([4, 6, 8], 8, 3, upsampler=lambda c: build_upsampler(name, c), top_level=top_level)
        model.bottom_up.maps = [torch.randn(2, c, 16 >> k, 24 >> k) for k, c in enumerate((4, 6, 8))]
        outputs = model(torch.zeros(2, 3, 128, 192))
        sizes = {"p3": (16, 24), "p4": (8, 12), "p5": (4, 6), "p6": (2, 3)}
        assert {level: tuple(x.shape[2:]) for level, x in outputs.items()} == sizes
        assert {level: shape.stride for level, shape in model.output_shape().items()} == {
            k: 2 ** int(k[1]) for k in sizes
        }
        sum(x.square().sum() for x in outputs.values()).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())

    def test_level_rounded_up_is_cropped(self):
        """A last map of 5 x 7 gives a top level of 3 x 4; its nearest enlargement loses a row and a column."""
        model = pyramid([4], 4, 5, top_level="conv")
        model.bottom_up.maps = [torch.randn(1, 4, 5, 7)]
        top = model.fpn_lateral6(model.bottom_up.maps[0])
        enlarged = top.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :5, :7]
        expected = model.fpn_output5(model.fpn_lateral5(model.bottom_up.maps[0]) + enlarged)
        torch.testing.assert_close(model(torch.zeros(1, 3, 160, 224))["p5"], expected)
        assert model.size_divisibility == 64

    def test_any_registered_backbone(self):
        @BACKBONE_REGISTRY.register()
        def build_given_maps(cfg, input_shape):
            return GivenMaps([4, 6, 8, 10])

        try:
            maps = "('map0', 'map1', 'map2', 'map3')"
            options = ["MODEL.FPN.BOTTOM_UP", "build_given_maps", "MODEL.FPN.IN_FEATURES", maps]
            model = build_backbone(config(*options), IMAGE)
        finally:
            del BACKBONE_REGISTRY._obj_map["build_given_maps"]
        assert isinstance(model.bottom_up, GivenMaps)
        assert list(model.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]

    def test_wrong_keys_are_refused(self):
        with pytest.raises(ValueError, match=r"MODEL\.FPN\.TOP_LEVEL is 'pool'; it must be one of maxpool, conv"):
            build_backbone(config("MODEL.FPN.TOP_LEVEL", "pool"), IMAGE)
        with pytest.raises(ValueError, match=r"MODEL\.FPN\.UPSAMPLER is 'cubic'; it must be one of nearest,"):
            build_backbone(config("MODEL.FPN.UPSAMPLER", "cubic"), IMAGE)
        with pytest.raises(ValueError, match="top_level='pool'"):
            pyramid([4], top_level="pool")


class TestMaskHead:
    SHAPE = ShapeSpec(channels=16, width=14, height=14)
    SMALL = [
        "MODEL.ROI_MASK_HEAD.CONV_DIM",
        16,
        "MODEL.CARAFE.COMPRESSED_CHANNELS",
        8,
        "MODEL.ROI_HEADS.NUM_CLASSES",
        5,
    ]

    def test_deconvolution_is_the_hosts_own(self):
        own = build_mask_head(config(*self.SMALL, "MODEL.ROI_MASK_HEAD.UPSAMPLER", "deconv"), self.SHAPE)
        host = build_mask_head(config(*self.SMALL, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"), self.SHAPE)
        own.load_state_dict(host.state_dict())
        x = torch.randn(3, 16, 14, 14)
        torch.testing.assert_close(own.layers(x), host.layers(x), atol=0, rtol=0)

    @pytest.mark.parametrize("name", UPSAMPLERS)
    def test_every_upsampler_learns(self, name):
        head = build_mask_head(config(*self.SMALL, "MODEL.ROI_MASK_HEAD.UPSAMPLER", name), self.SHAPE)
        nn.init.normal_(head.predictor.weight)
        for regions in (0, 2):
            head.zero_grad()
            logits = head.layers(torch.randn(regions, 16, 14, 14))
            assert logits.shape == (regions, 5, 28, 28)
            logits.square().sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in head.parameters())

    def test_channels_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match="gets 16 channels and should give 8"):
            build_mask_head(config("MODEL.ROI_MASK_HEAD.NUM_CONV", 0, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8), self.SHAPE)


class TestWeights:
    @pytest.fixture(scope="class")
    def model(self):
        return build_model(config())

    def test_full_size_weights_fill_the_model(self, authors_weights, model):
        weights = find_layout(authors_weights).convert(dict(authors_weights))
        counters = [name for name in authors_weights if name.endswith("num_batches_tracked")]
        assert len(weights) == len(authors_weights) - len(counters)
        missing, unexpected = model.load_state_dict(weights, strict=False)
        assert not unexpected
        assert all("anchor_generator" in name or name.startswith("pixel_") for name in missing), missing
        state = model.state_dict()
        source = {
            "neck.upsample_modules.0.content_encoder.weight": "backbone.fpn_upsample3.content_encoder.weight",
            "neck.lateral_convs.4.conv.weight": "backbone.fpn_lateral6.weight",
            "neck.fpn_convs.0.conv.weight": "backbone.fpn_output2.weight",
            "roi_head.bbox_head.fc_cls.weight": "roi_heads.box_predictor.cls_score.weight",
            "roi_head.mask_head.conv_logits.bias": "roi_heads.mask_head.predictor.bias",
            "backbone.layer4.2.bn3.running_var": "backbone.bottom_up.res5.2.conv3.norm.running_var",
            "backbone.layer1.0.downsample.1.weight": "backbone.bottom_up.res2.0.shortcut.norm.weight",
        }
        for old, new in source.items():
            assert torch.equal(state[new], authors_weights[old]), new

    def test_checkpointer_and_command_read_the_file(self, authors_weights, model, tmp_path):
        path = tmp_path / "mask_rcnn_r50_carafe.pth"
        torch.save({"state_dict": authors_weights, "meta": {}}, path)
        incompatible = []
        checkpointer = Checkpointer(model, str(tmp_path))
        checkpointer._log_incompatible_keys = incompatible.append
        checkpointer.load(str(path))
        assert checkpointer._report(incompatible[0]).clean
        layout, count = convert_file(path, tmp_path / "converted.pth")
        assert layout == "mmdetection"
        converted = read_checkpoint(tmp_path / "converted.pth")["model"]
        assert count == len(converted) and converted.keys() <= model.state_dict().keys()

    def test_unknown_names_are_listed(self, authors_weights):
        weights = dict(
            authors_weights, **{"neck.gates.0.weight": torch.zeros(1), "roi_head.semantic.bias": torch.zeros(1)}
        )
        with pytest.raises(ValueError, match=r"mmdetection's, .*: neck\.gates\.0\.weight, roi_head\.semantic\.bias\."):
            find_layout(weights).convert(weights)


class TestDrawing:
    OPTIONS = ("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 8)

    @pytest.fixture
    def model(self):
        options = [*self.OPTIONS, "MODEL.CARAFE.UP_GROUP", 2, "MODEL.CARAFE.COMPRESSED_CHANNELS", 8]
        model = build_model(config(*options, "MODEL.MASK_ON", False, "INPUT.MIN_SIZE_TEST", 96)).eval()
        for level in range(3, 7):
            nn.init.normal_(getattr(model.backbone, f"fpn_upsample{level}").content_encoder.weight)
        return model

    def test_shares_are_the_pyramids_own(self, model):
        """What a pixel takes from a coarser map, against its change when one pixel of that map changes."""
        image = torch.randint(0, 256, (3, 100, 130), dtype=torch.uint8)
        kernels = predict_kernels(model, {"image": image, "height": 100, "width": 130})
        assert [level for level, _, _ in kernels] == [3, 4, 5, 6]
        row, column = 9, 14
        steps = trace(kernels[:2], row, column)
        assert [(step.name, step.stride) for step in steps] == [("p3", 8), ("p4", 16)]
        assert np.count_nonzero(steps[0].shares) == 25
        source = torch.ones(1, 8, *steps[1].shares.shape)
        source[:, :, 2, 3] = 2
        for _, layer, weights in reversed(kernels[:2]):
            plain = source
            source = carafe(plain, weights, layer.up_kernel, layer.up_group, 2)
        change = source[0, :, row, column].mean() - steps[1].shares.sum()
        assert change.item() == pytest.approx(steps[1].shares[2, 3], abs=1e-5)
        assert steps[0].shares.sum() == pytest.approx(1, abs=1e-5)

    def test_picture(self, model, tmp_path):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 130, 3), dtype=np.uint8)).save(
            tmp_path / "a.png"
        )
        torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
        file = tmp_path / "small.yaml"
        keys = "MASK_ON: False, RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64}, FPN: {OUT_CHANNELS: 8}"
        file.write_text(f"_BASE_: {CONFIG}\nMODEL: {{{keys}, CARAFE: {{UP_GROUP: 2, COMPRESSED_CHANNELS: 8}}}}\n")
        file.write_text(file.read_text() + "INPUT: {MIN_SIZE_TEST: 96}\n")
        files = (str(file), str(tmp_path / "model.pth"), str(tmp_path / "a.png"))
        draw_kernels(*files, [(20, 30), (129, 99)], str(tmp_path / "out.png"))
        drawn = np.asarray(Image.open(tmp_path / "out.png").convert("RGB")).astype(int)
        assert drawn.shape[0] == drawn.shape[1] == 800
        red = (drawn[..., 0] > 200) & (drawn[..., 1:].max(-1) < 90)
        assert all(red[y : y + 400, x : x + 400].sum() > 100 for y in (0, 400) for x in (0, 400))
        with pytest.raises(ValueError, match=r"130 x 100; there are no pixels \[\(130, 5\)\]"):
            draw_kernels(*files, [(130, 5)], str(tmp_path / "out.png"))
