"""ResNets with a stem of three convolutions: against a plain forward, and from the names of others."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import BACKBONE_REGISTRY, build_model
from densekit.modeling.resnet import DeepStem
from densekit.weights import adapt_names, convert_file
from densekit.weights.parts import find_layout
from tests.tolerances import close

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("backbone", "sem_seg_head")
AUTHORS, MMSEG = "upernet_R_50_csail_ade20k", "upernet_R_50_ade20k"


def config(name=AUTHORS, **keys):
    words = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN"]
    for key, value in keys.items():
        words += [f"MODEL.{key.replace('__', '.')}", str(value)]
    return load_config(str(ROOT / f"configs/upernet/{name}.yaml"), words)


def backbone(**keys):
    cfg = config(RESNETS__WIDTH_PER_GROUP=4, RESNETS__RES2_OUT_CHANNELS=16, RESNETS__STEM_OUT_CHANNELS=8, **keys)
    torch.manual_seed(0)
    return BACKBONE_REGISTRY.get("build_deep_stem_resnet_backbone")(cfg, ShapeSpec(channels=3))


def randomise_norms(module):
    for name, value in module.state_dict().items():
        if ".norm." in name and value.is_floating_point():
            value.uniform_(0.5, 1.5)


def test_stem_is_three_convolutions_with_their_norms():
    resnet = backbone().eval()
    randomise_norms(resnet)
    weights, images = resnet.state_dict(), torch.randn(2, 3, 37, 50)
    x = images
    for k, stride in ((1, 2), (2, 1), (3, 1)):
        x = F.conv2d(x, weights[f"stem.conv{k}.weight"], stride=stride, padding=1)
        mean, var, gain, bias = (
            weights[f"stem.conv{k}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.batch_norm(x, mean, var, gain, bias, eps=1e-5).clamp(min=0)
    assert [weights[f"stem.conv{k}.weight"].shape[0] for k in (1, 2, 3)] == [4, 4, 8]
    expected = F.max_pool2d(x, 3, 2, 1)
    torch.testing.assert_close(resnet.stem(images), expected, **close(torch.float32))
    torch.testing.assert_close(resnet(images)["res2"], resnet.res2(expected), **close(torch.float32))


@pytest.mark.parametrize("freeze_at", [0, 1, 2])
def test_freezing_begins_with_the_stem(freeze_at):
    resnet = backbone(BACKBONE__FREEZE_AT=freeze_at)
    assert all(p.requires_grad == (freeze_at < 1) for p in resnet.stem.parameters())
    assert all(p.requires_grad == (freeze_at < 2) for p in resnet.res2.parameters())
    resnet(torch.randn(2, 3, 64, 64))["res5"].sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in resnet.parameters())


def test_odd_width_is_refused_with_its_key():
    with pytest.raises(ValueError, match="STEM_OUT_CHANNELS=7"):
        DeepStem(3, 7)


def foreign_resnet(names, v1c):
    """The names of a ResNet of ours in the vocabulary of others -> ours."""
    renamed = {}
    for name in names:
        new = re.sub(r"^res(\d)", lambda m: f"layer{int(m[1]) - 1}", name)
        if v1c:
            new = re.sub(r"^stem\.conv(\d)\.norm", lambda m: f"stem.{3 * int(m[1]) - 2}", new)
            new = re.sub(r"^stem\.conv(\d)", lambda m: f"stem.{3 * int(m[1]) - 3}", new)
        else:
            new = new.removeprefix("stem.")
        new = re.sub(r"conv(\d)\.norm", r"bn\1", new)
        renamed[new.replace("shortcut.norm", "downsample.1").replace("shortcut.", "downsample.0.")] = name
    return renamed


HEADS = {
    AUTHORS: {
        r"ppm\.branches\.(\d)": r"ppm_conv.\1",
        r"ppm\.project": "ppm_last_conv",
        r"laterals\.(\d)": r"fpn_in.\1",
        r"outputs\.(\d)": r"fpn_out.\1.0",
        "fuse": "conv_last.0",
        "predictor": "conv_last.1",
    },
    MMSEG: {
        r"ppm\.branches\.(\d)": r"decode_head.psp_modules.\1.1",
        r"ppm\.project": "decode_head.bottleneck",
        r"laterals\.(\d)": r"decode_head.lateral_convs.\1",
        r"outputs\.(\d)": r"decode_head.fpn_convs.\1",
        "fuse": "decode_head.fpn_bottleneck",
        r"auxiliary\.convs\.(\d)": r"auxiliary_head.convs.\1",
        r"auxiliary\.predictor": "auxiliary_head.conv_seg",
        "predictor": "decode_head.conv_seg",
    },
}


def foreign_head(names, config_name):
    conv, norm = ("0", "1") if config_name == AUTHORS else ("conv", "bn")
    renamed = {}
    for name in names:
        part, new = next((p, n) for p, n in HEADS[config_name].items() if re.match(rf"{p}\.", name))
        tail = re.sub(rf"^{part}\.", "", name)
        if "predictor" not in part:
            tail = f"{norm}.{tail.removeprefix('norm.')}" if tail.startswith("norm.") else f"{conv}.{tail}"
        renamed[re.match(part, name).expand(new) + f".{tail}"] = name
    return renamed


@pytest.mark.parametrize("config_name", [AUTHORS, MMSEG])
def test_full_size_checkpoints_are_consumed_in_full(config_name):
    """Nothing is missing and nothing left over, by name and shape, in the shipped configuration."""
    cfg = config(config_name)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    wanted = {name: value.shape for name, value in model.state_dict().items() if not name.startswith("pixel_")}
    prefix = "" if config_name == AUTHORS else "backbone."
    ours = {place: [n.removeprefix(f"{place}.") for n in wanted if n.startswith(place)] for place in PLACES}
    theirs = {
        **{prefix + new: f"backbone.{old}" for new, old in foreign_resnet(ours["backbone"], prefix != "").items()},
        **{new: f"sem_seg_head.{old}" for new, old in foreign_head(ours["sem_seg_head"], config_name).items()},
    }
    assert set(theirs.values()) == set(wanted)
    shapes = {
        "conv1.weight": (64, 3, 3, 3),
        "conv3.weight": (128, 64, 3, 3),
        "bn3.running_var": (128,),
        "conv_last.0.0.weight": (512, 2048, 3, 3),
        "backbone.stem.0.weight": (32, 3, 3, 3),
        "backbone.stem.6.weight": (64, 32, 3, 3),
        "backbone.stem.7.bias": (64,),
        "auxiliary_head.convs.0.conv.weight": (256, 1024, 3, 3),
    }
    named = {name: shape for name, shape in shapes.items() if name in theirs}
    assert len(named) == 4 and all(wanted[theirs[name]] == shape for name, shape in named.items())
    weights = {new: torch.empty(wanted[old], device="meta") for new, old in theirs.items()}
    converted = adapt_names({"model": weights}, model.state_dict())
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    assert {name: value.shape for name, value in converted.items()} == {
        name: shape for name, shape in wanted.items() if name not in counters
    }


@pytest.mark.parametrize("v1c", [False, True], ids=["authors", "mmsegmentation"])
@pytest.mark.parametrize("pyramid", [False, True])
def test_weights_of_imagenet_go_where_the_backbone_is(v1c, pyramid, tmp_path):
    resnet = backbone()
    randomise_norms(resnet)
    state = resnet.state_dict()
    weights = {new: state[old] for new, old in foreign_resnet(state, v1c).items()}
    weights |= {"fc.weight": torch.zeros(5, 128), "fc.bias": torch.zeros(5)}
    place = "backbone.bottom_up." if pyramid else "backbone."
    model = {place + name: value for name, value in state.items()} | {"sem_seg_head.predictor.bias": torch.zeros(5)}
    adapted = adapt_names({"model": weights}, model)
    assert set(adapted) == {name for name in model if place in name and not name.endswith("num_batches_tracked")}
    for name, value in adapted.items():
        torch.testing.assert_close(value, model[name])
    with pytest.raises(ValueError, match="build_deep_stem_resnet_backbone"):
        adapt_names({"model": weights}, {name: value for name, value in model.items() if "conv3.weight" not in name})
    with pytest.raises(ValueError, match="a backbone that the model does not have"):
        adapt_names({"model": weights}, {"backbone.stem.conv1.weight": torch.zeros(8, 3, 7, 7)})
    torch.save(weights, tmp_path / "theirs.pth")
    assert convert_file(tmp_path / "theirs.pth", tmp_path / "ours.pth") == ("a backbone alone", len(adapted))


def test_other_stems_are_refused_by_name():
    """ResNetV1d averages in its shortcuts, where it has a convolution more."""
    state = backbone().state_dict()
    weights = {new: state[old] for new, old in foreign_resnet(state, True).items()}
    weights["layer2.0.downsample.2.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"layer2\.0\.downsample\.2\.weight"):
        find_layout(weights).convert(weights)


def test_a_plain_resnet_is_not_taken_for_one():
    names = ["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer1.0.conv3.weight", "fc.weight"]
    assert find_layout(names) is None
