"""Networks of torchvision as backbones, and their files of weights."""

import logging

import pytest
import torch
from torchvision import models

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.projects.torchvision_backbone.backbone import TorchvisionBackbone
from densekit.weights.names import adapt_names

RIGHT = ["MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53], "MODEL.PIXEL_STD", [58.395, 57.12, 57.375]]
RIGHT += ["INPUT.FORMAT", "RGB"]


def backbone(name, *opts) -> TorchvisionBackbone:
    cfg = load_config("", ["MODEL.TORCHVISION.NAME", name, "MODEL.BACKBONE.FREEZE_AT", 0, *RIGHT, *opts])
    return TorchvisionBackbone(cfg, ShapeSpec(channels=3))


FAMILIES = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "swin_t", "convnext_tiny", "densenet121"]


@pytest.mark.parametrize("name", [*FAMILIES, "regnet_y_400mf"])
def test_families_take_images_of_other_sizes(name):
    device = "cpu" if name.startswith("regnet") else "meta"  # RegNets compute their widths with tensors
    with torch.device(device), torch.no_grad():
        network = backbone(name).eval()
        maps = network(torch.zeros(1, 3, 256, 384))
    for key, value in maps.items():
        shape = network.output_shape()[key]
        assert value.shape == (1, shape.channels, 256 // shape.stride, 384 // shape.stride)
    assert {"stage3", "stage4", "stage5"} <= set(maps)


def test_maps_are_those_of_the_classifier():
    torch.manual_seed(0)
    theirs = models.resnet18().eval()
    ours = TorchvisionBackbone(network=theirs).eval()
    images = torch.randn(2, 3, 64, 96)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    maps = ours(images)
    for level, layer in enumerate((theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), start=2):
        x = layer(x)
        assert torch.allclose(maps[f"stage{level}"], x, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "swin_t"])
def test_a_file_of_torchvision_fills_the_backbone(name):
    with torch.device("meta"):
        weights = models.get_model(name, weights=None).state_dict()
        network = backbone(name).state_dict()
    model = {f"backbone.bottom_up.{key}": value for key, value in network.items()}
    assert set(model) <= set(adapt_names({"model": weights}, model))


def test_frozen_part_neither_learns_nor_counts():
    network = backbone("mobilenet_v3_small", "MODEL.BACKBONE.FREEZE_AT", 3).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    maps = network(torch.randn(2, 3, 64, 64))
    assert not any(maps[f"stage{level}"].requires_grad for level in (1, 2, 3)) and maps["stage5"].requires_grad
    after = network.state_dict()
    moved = {name for name in after if "running_mean" in name and not torch.equal(before[name], after[name])}
    assert moved and not any("features.0." in name for name in moved)


def test_frozen_norms_are_constants():
    network = backbone("mobilenet_v3_small", "MODEL.TORCHVISION.FREEZE_NORMS", True).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(torch.randn(2, 3, 64, 64))
    assert before and all(torch.equal(value, before[name]) for name, value in network.named_buffers())


def test_what_cannot_be_a_backbone_is_named():
    with pytest.raises(ValueError, match=r"MODEL.TORCHVISION.NAME is 'resnet17'.*Near"):
        backbone("resnet17")
    with torch.device("meta"), pytest.raises(ValueError, match="VisionTransformer, which"):
        backbone("vit_b_32")
    with torch.device("meta"), pytest.raises(ValueError, match="SqueezeNet, which has no maps"):
        backbone("squeezenet1_1")  # whose sides are no fractions of the image's
    with torch.device("meta"), pytest.raises(ValueError, match=r"FREEZE_AT is 7.*it has stage"):
        backbone("mobilenet_v3_small", "MODEL.BACKBONE.FREEZE_AT", 7)


def test_other_pixels_than_those_of_the_weights_are_told(caplog):
    weights = ["MODEL.WEIGHTS", "some.pth"]
    for opts, said in ((weights, False), ([*weights, "INPUT.FORMAT", "BGR"], True), (["INPUT.FORMAT", "BGR"], False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING), torch.device("meta"):
            backbone("mobilenet_v3_small", *opts)
        assert ("trained with INPUT.FORMAT RGB" in caplog.text) is said
