"""HRNet as a network, a backbone and a segmenter: properties, oracles, weights, exports."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from densekit.config import load_config
from densekit.d2.layers import FrozenBatchNorm2d
from densekit.d2.modeling import build_backbone, build_model
from densekit.d2.utils.events import EventStorage
from densekit.projects.hrnet.backbone import NAMES, HRNetBackbone, norm_maker
from densekit.projects.hrnet.classification import ClassificationNeck
from densekit.projects.hrnet.config import shrink
from densekit.projects.hrnet.network import HRNet, Stage
from densekit.projects.hrnet.weights import OLD_DETECTORS
from densekit.weights import adapt_names
from densekit.weights.parts import rename_part
from tests.contract.shrinking import shrunken
from tests.contract.test_configs import sample
from tests.projects.hrnet.recorded import segmenter
from tests.projects.hrnet.recorded_net import published

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
TINY = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]


def tiny_network(**options) -> HRNet:
    stages = [Stage(1, (1,) * k, (4, 8, 16, 32)[:k]) for k in (2, 3, 4)]
    return HRNet(bottlenecks=1, bottleneck_channels=4, stages=stages, norm=norm_maker("BN", 0.1), **options)


def tiny_config(*opts: str, file: str = ""):
    cfg = load_config(str(CONFIGS / file) if file else "", [*TINY, *opts])
    shrink(cfg)
    return cfg


def rescaled(network: nn.Module) -> nn.Module:
    """Random statistics and weights, so that every part counts."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("name", ["hrnet_w18_small", "hrnet_w18_small_v2"])
def test_equals_timm_from_its_weights(name):
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(name, pretrained=False, num_classes=10)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    theirs.eval()
    small = {"hrnet_w18_small": (16, (1, 1, 1), 2, 1, 32), "hrnet_w18_small_v2": (18, (1, 3, 2), 2, 2, 64)}[name]
    network = published(*small).to_empty(device="cpu")
    neck = ClassificationNeck(in_channels=network.channels, norm=nn.BatchNorm2d)
    state = theirs.state_dict()
    holder = nn.ModuleDict({"backbone": HRNetBackbone(network, out_features=list(NAMES))})
    adapted = adapt_names({"model": state}, holder.state_dict())
    missing = set(holder.state_dict()) - set(adapted)
    assert not holder.load_state_dict(adapted, strict=False).unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing)
    neck.load_state_dict({k: v for k, v in state.items() if k in neck.state_dict()})
    network.eval(), neck.eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = neck(network(images))
        expected = theirs.forward_features(images).mean(dim=(2, 3))
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


def test_nearest_and_bilinear_exchange_differ_by_how_maps_grow():
    torch.manual_seed(1)
    nearest, bilinear = tiny_network(fuse="nearest"), tiny_network(fuse="bilinear")
    rescaled(nearest)
    bilinear.load_state_dict(nearest.state_dict())
    bilinear.eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(nearest(images)[0], bilinear(images)[0], atol=1e-3)
        flat = torch.ones(1, 3, 320, 320)  # inside a flat image there is nothing to interpolate
        ours, theirs = nearest(flat)[3][0, :, 5, 5], bilinear(flat)[3][0, :, 5, 5]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("size", [(79, 53), (33, 65), (32, 40)])
def test_bilinear_exchange_takes_images_of_any_size(size):
    network = rescaled(tiny_network(fuse="bilinear"))
    with torch.no_grad():
        maps = network(torch.randn(1, 3, *size))
    for k, x in enumerate(maps):
        stride = 4 * 2**k
        assert x.shape[-2:] == tuple(-(-side // stride) for side in size)


def test_a_batch_equals_its_images():
    network = rescaled(tiny_network())
    images = torch.randn(3, 3, 64, 32)
    with torch.no_grad():
        together = network(images)
        for k in range(3):
            for batched, alone in zip(together, network(images[k : k + 1])):
                torch.testing.assert_close(batched[k : k + 1], alone, atol=1e-3, rtol=1e-3)


def test_one_output_is_the_finest_map_of_all():
    whole = rescaled(tiny_network())
    finest = tiny_network(outputs=1)
    finest.load_state_dict({k: v for k, v in whole.state_dict().items() if k in finest.state_dict()})
    finest.eval()
    images = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        (ours,) = finest(images)
        torch.testing.assert_close(ours, whole(images)[0])


def test_norm_eval_keeps_statistics_and_learns_the_rest():
    backbone = HRNetBackbone(tiny_network(), out_features=list(NAMES), norm_eval=True).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items() if "running" in k or "batches" in k}
    sum(x.sum() for x in backbone(torch.randn(2, 3, 32, 32)).values()).backward()
    after = backbone.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize("freeze_at, convolutions", [(0, 0), (1, 2), (2, 6)])
def test_frozen_parts_do_not_learn(freeze_at, convolutions):
    """The stem has 2 convolutions, the bottleneck of the first stage 4 with its shortcut."""
    backbone = HRNetBackbone(tiny_network(), out_features=list(NAMES), freeze_at=freeze_at)
    constants = [m for m in backbone.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(constants) == convolutions
    assert sum(not p.requires_grad for p in backbone.parameters()) == convolutions


@pytest.mark.parametrize(
    "file, opts",
    [
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", "build_fpn_backbone"),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", "build_hrnet_v2p_backbone"),
        ("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", "build_hrnet_v2p_backbone"),
        ("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", "build_hrnet_v2p_backbone"),
        ("pointrend/pointrend_rcnn_R_50_FPN_1x_coco.yaml", "build_hrnet_v2p_backbone"),
        ("mask_scoring/mask_scoring_R_50_FPN_1x.yaml", "build_hrnet_v2p_backbone"),
        ("upernet/upernet_R_50_cityscapes.yaml", "build_hrnet_backbone"),
        ("detr/detr_R_50.yaml", "build_hrnet_backbone"),
    ],
)
def test_any_system_takes_it_by_keys_alone(file, opts):

    cfg = shrunken(CONFIGS / file)
    cfg.MODEL.BACKBONE.NAME = opts
    cfg.MODEL.FPN.BOTTOM_UP = "build_hrnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    model = build_model(cfg)
    with EventStorage():
        losses = model([sample(cfg), sample(cfg)])
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    learned = [p for name, p in model.named_parameters() if "network.stage4" in name]
    assert learned and any(p.grad is not None and p.grad.abs().sum() > 0 for p in learned)
    model.eval()
    with torch.no_grad():
        assert len(model([sample(cfg)])) == 1


def test_all_branches_side_by_side_are_one_map():
    cfg = tiny_config("MODEL.BACKBONE.NAME", "build_hrnet_v2_backbone", "MODEL.BACKBONE.FREEZE_AT", "0")
    backbone = build_backbone(cfg).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 96))
        branches = backbone.bottom_up(torch.zeros(1, 3, 64, 96))
    assert list(maps) == ["concat"] and maps["concat"].shape == (1, 60, 16, 24)
    assert backbone.output_shape()["concat"].channels == sum(x.shape[1] for x in branches.values())


@pytest.mark.parametrize("backbone", ["build_hrnet_v2p_backbone", "build_fpn_backbone", "build_hrnet_backbone"])
def test_weights_of_imagenet_find_their_place(backbone):
    opts = ("MODEL.BACKBONE.NAME", backbone, "MODEL.FPN.BOTTOM_UP", "build_hrnet_backbone")
    fpn = ("MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']", "MODEL.BACKBONE.FREEZE_AT", "0")
    cfg = tiny_config(*opts, *fpn)
    holder = nn.ModuleDict({"backbone": build_backbone(cfg)})
    network = next(m for m in holder.modules() if isinstance(m, HRNet))
    file = {k: v + 1 if v.is_floating_point() else v for k, v in network.state_dict().items()}
    file |= {"incre_modules.0.0.conv1.weight": torch.zeros(1), "classifier.bias": torch.zeros(1)}
    adapted = adapt_names({"model": file}, holder.state_dict())
    assert set(adapted) <= set(holder.state_dict())
    holder.load_state_dict(adapted, strict=False)
    learned = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert all(torch.equal(v, file[k]) for k, v in learned.items())


def test_weights_of_a_published_segmenter_say_their_flavour():
    model = segmenter(tiny_network(fuse="bilinear"), 5, 1, 0.01)
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("flavour.value")}
    names = {k.replace("backbone.network.", "model.").replace("sem_seg_head.", "model."): v for k, v in state.items()}
    file = names | {"loss.criterion.weight": torch.ones(5)}
    model.load_state_dict(adapt_names({"model": file}, model.state_dict()))
    aligned = segmenter(tiny_network(fuse="bilinear", align_corners=True), 5, 1, 0.01, align_corners=True)
    with pytest.raises(ValueError, match=r"ALIGN_CORNERS False"):
        aligned.load_state_dict(adapt_names({"model": file}, aligned.state_dict()))
    old = {k: v for k, v in file.items() if not k.endswith("num_batches_tracked")}  # torch 0.4
    aligned.load_state_dict(adapt_names({"model": old}, aligned.state_dict()), strict=False)
    with pytest.raises(ValueError, match=r"ALIGN_CORNERS True"):
        model.load_state_dict(adapt_names({"model": old}, model.state_dict()), strict=False)


def test_own_checkpoints_of_the_other_flavour_are_refused():
    plain = segmenter(tiny_network(fuse="bilinear"), 5, 1, 0.01)
    aligned = segmenter(tiny_network(fuse="bilinear", align_corners=True), 5, 1, 0.01, align_corners=True)
    with pytest.raises(ValueError, match=r"align_corners True"):
        plain.load_state_dict(aligned.state_dict())


def test_detectors_of_old_mmdetection_have_their_background_first():
    weights = {
        "fc_cls.weight": torch.zeros(4, 1),
        "fc_cls.bias": torch.arange(4.0),
        "fc_reg.bias": torch.arange(16.0),
        "0.fc_reg.bias": torch.arange(4.0),
    }
    converted = rename_part(OLD_DETECTORS, "bbox_head", weights)
    assert converted["box_predictor.cls_score.bias"].tolist() == [1, 2, 3, 0]
    assert converted["box_predictor.bbox_pred.bias"].tolist() == list(range(4, 16))
    assert converted["box_predictor.0.bbox_pred.bias"].tolist() == list(range(4))


def test_unknown_names_of_a_file_are_listed():
    weights = {"stage4.0.branches.0.0.conv1.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="stranger"):
        adapt_names({"model": weights | {"stranger": torch.zeros(1)}}, {})
    with pytest.raises(ValueError, match=r"MODEL\.BACKBONE\.NAME"):
        adapt_names({"model": weights}, {"backbone.res2.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    "opts, named",
    [
        (("MODEL.HRNET.FUSE", "cubic"), "MODEL.HRNET.FUSE"),
        (("MODEL.HRNET.OUT_FEATURES", "['res9']"), "MODEL.HRNET.OUT_FEATURES"),
        (("MODEL.HRNET.NORM", ""), "MODEL.HRNET.NORM"),
        (("MODEL.HRNET.MODULES", "[1, 1]"), "MODEL.HRNET.MODULES"),
    ],
)
def test_wrong_keys_are_named(opts, named):
    cfg = load_config("", [*TINY, "MODEL.BACKBONE.NAME", "build_hrnet_backbone", *opts])
    with pytest.raises(ValueError, match=named):
        build_backbone(cfg)


def test_an_exported_segmenter_takes_other_sizes():
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    stages = [Stage(1, (1,) * k, (4, 8, 16)[:k]) for k in (2, 3)]  # a branch less, which exports in half the time
    network = HRNet(bottlenecks=1, bottleneck_channels=4, stages=stages, norm=norm_maker("BN", 0.1), fuse="bilinear")
    model = segmenter(network, 5, 1, 0.01, out_features=NAMES[:3])
    rescaled(model)
    whole = nn.Sequential(model["backbone"], _Layers(model["sem_seg_head"])).eval()
    height, width = (torch.export.Dim(name, min=32, max=512) for name in ("height", "width"))
    file = io.BytesIO()
    program = torch.onnx.export(
        whole, (torch.randn(1, 3, 96, 64),), dynamo=True, dynamic_shapes=({2: height, 3: width},), optimize=False
    )
    program.save(file)
    session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for size in ((79, 53), (128, 160)):
        images = torch.randn(1, 3, *size)
        (scores,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.no_grad():
            expected = whole(images).numpy()
        np.testing.assert_allclose(scores, expected, atol=1e-4 * np.abs(expected).max())


class _Layers(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, features):
        return self.head.layers(features)
