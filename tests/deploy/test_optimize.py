"""The inference form of a model: the same numbers, another copy, no training."""

import pytest
import torch
from torch import nn

import densekit
from densekit.d2.layers import Conv2d, FrozenBatchNorm2d
from densekit.d2.modeling import build_model
from densekit.d2.structures import Instances
from densekit.deploy import form, inference_form, optimize
from densekit.layers.conv_norm import ConvNorm
from tests.contract.shrinking import ROOT, shrunken

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)
FAMILIES = {
    "R-CNN with FPN": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "R-CNN with C4": "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
    "RetinaNet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "DETR": "detr/detr_R_50.yaml",
    "UPerNet": "upernet/upernet_R_50_cityscapes.yaml",
    "HRNet": "hrnet/hrnet_w18_small_v1_camvid.yaml",
    "HRNet's pyramid": "hrnet/faster_rcnn_w18_1x.yaml",
    "Swin": "swin/mask_rcnn_swin_T_FPN_1x.yaml",
    "MPViT": "mpvit/mask_rcnn_mpvit_T_FPN_1x.yaml",
    "YOLOv6": "yolov6/yolov6_n.yaml",
    "YOLOv6 with silu": "yolov6/yolov6_l.yaml",
}


def config(name):
    cfg = shrunken(ROOT / "configs" / FAMILIES[name])
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    return cfg


def trained_like(cfg):
    """A model in evaluation mode, whose norms have statistics and weights as a training leaves them."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            with torch.no_grad():
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.8, 1.2)
                module.weight.uniform_(0.6, 0.9)
                module.bias.uniform_(-0.1, 0.1)
    return model


@torch.no_grad()
def results(model):
    """All numbers that a model gives for a picture, and those of its backbone, or of a detector before suppression."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8, generator=generator)
    found = [model([{"image": image, "height": 96, "width": 128}])]
    if hasattr(model, "backbone"):
        found.append(model.backbone(image[None].float() / 128 - 1))
    if hasattr(model, "forward_tensors"):
        found.append(model.forward_tensors(image[None].float() / 255))
    return tensors(found)


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Instances):
        value = {key: getattr(field, "tensor", field) for key, field in value.get_fields().items()}
    members = value.values() if isinstance(value, dict) else value
    return [tensor for member in members for tensor in tensors(member)]


def same(mine, theirs, tolerance=1e-5):
    assert len(mine) == len(theirs) > 0
    for one, other in zip(mine, theirs):
        assert one.dtype == other.dtype and one.shape == other.shape
        if one.dtype is torch.bool:  # masks, of which a pixel at the threshold may change
            assert (one != other).float().mean() <= 1e-3
            continue
        scale = max(1.0, other.abs().max().item()) if other.numel() else 1.0  # boxes are pixels, logits what they are
        torch.testing.assert_close(one / scale, other / scale, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_optimized_model_gives_the_same_and_leaves_the_model_alone(name):
    model = trained_like(config(name))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = results(model)
    fast = optimize(model)
    same(results(fast), expected)
    assert type(fast) is type(model) and fast.device == model.device
    left = [path for path, module in fast.named_modules() if isinstance(module, BATCH_NORMS)]
    assert not left, left
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    same(results(model), expected, 0)


def test_a_model_goes_on_training_beside_its_optimized_copy():
    cfg = config("HRNet")
    model = build_model(cfg)
    fast = inference_form(cfg, model)
    assert model.training and all(part.training for part in model.modules()) and not fast.training
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert learning and {id(p) for p in learning} <= {id(p) for p in model.parameters()}
    with pytest.raises(ValueError, match=r"SemanticSegmentor is optimized for inference and cannot be trained"):
        fast.train()
    assert not any(part.training for part in fast.eval().modules())
    with pytest.raises(ValueError, match=r"SemanticSegmentor is in training mode; call its eval\(\)"):
        densekit.optimize(model)


def test_what_is_not_folded_is_shared():
    model = trained_like(config("Swin"))
    own = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    linear = [m for m in optimize(model).modules() if isinstance(m, nn.Linear)]
    assert linear and all(id(module.weight) in own for module in linear)
    assert {n for n, _ in optimize(model).named_buffers()} == {n for n, _ in model.named_buffers()}


def test_hooks_see_what_they_saw():
    """A norm, or a module that would be joined, stays where a hook listens."""
    torch.manual_seed(0)
    model = nn.Sequential(ConvNorm(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), ConvNorm(4, 4, 1))
    seen = []
    for norm in (model[0].norm, model[1][0]):
        norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model[2].register_forward_hook(lambda module, inputs, output: output + 1)
    x = torch.randn(1, 3, 5, 6)
    expected = model.eval()(x)
    fast = optimize(model)
    same([fast(x)], [expected])
    same(seen[2:], seen[:2])
    assert isinstance(fast[0].norm, nn.BatchNorm2d) and isinstance(fast[1][1], nn.BatchNorm2d)
    assert isinstance(fast[2].norm, nn.Identity)


def test_convolutions_of_every_shape_take_their_norm_in():
    torch.manual_seed(0)
    made = [
        nn.Sequential(nn.Conv2d(4, 8, (3, 1), stride=2, padding=(1, 0), groups=2), nn.BatchNorm2d(8)),
        nn.Sequential(nn.Conv2d(4, 4, 3, dilation=2, padding="same", padding_mode="reflect"), FrozenBatchNorm2d(4)),
        nn.Sequential(Conv2d(4, 4, 3, bias=False, norm=nn.BatchNorm2d(4, affine=False), activation=nn.Tanh())),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
        nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4)),
        nn.Sequential(Conv2d(4, 4, 1, activation=nn.Tanh()), nn.BatchNorm2d(4)),
    ]
    x = torch.randn(2, 4, 9, 8)
    for index, model in enumerate(made):
        model.train()(x)  # statistics that are not 0 and 1
        expected, fast = model.eval()(x), optimize(model)
        same([fast(x)], [expected])
        kept = [module for module in fast.modules() if isinstance(module, BATCH_NORMS)]
        assert bool(kept) is (index >= 3)


def test_a_convolution_that_serves_twice_keeps_its_values():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 1)
    model = nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(4)), nn.Sequential(conv, nn.BatchNorm2d(4)), conv)
    x = torch.randn(2, 4, 3, 3)
    model.train()(x)
    expected = model.eval()(x)
    same([optimize(model)(x)], [expected])


def test_optimizing_twice_and_copying_change_nothing():
    model = trained_like(config("YOLOv6"))
    fast = optimize(model)
    same(results(optimize(fast)), results(fast))


def test_nothing_is_copied_where_nothing_is_asked_for():
    cfg = config("R-CNN with FPN")
    model = build_model(cfg).eval()
    cfg.MODEL.INFERENCE.FUSE = cfg.MODEL.INFERENCE.CHANNELS_LAST = False
    assert inference_form(cfg, model) is model
    cfg.MODEL.INFERENCE.DTYPE = "half"
    with pytest.raises(ValueError, match=r"MODEL\.INFERENCE\.DTYPE is 'half'; it can be 'float32' or 'bfloat16'"):
        inference_form(cfg, model)


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_is_for_features_and_results_are_float32(name, monkeypatch):
    monkeypatch.setattr(form, "computes_in_bfloat16", lambda: True)
    cfg = config(name)
    model = trained_like(cfg)
    cfg.MODEL.INFERENCE.DTYPE = "bfloat16"
    fast = inference_form(cfg, model)
    mine, theirs = results(fast), results(model)
    assert not any(tensor.dtype is torch.bfloat16 for tensor in mine)
    alike = [(one, other) for one, other in zip(mine, theirs) if one.shape == other.shape and one.is_floating_point()]
    assert not all(torch.allclose(one, other, rtol=1e-5, atol=1e-6) for one, other in alike)
    # Which boxes survive may change; maps may not, beyond what 8 bits of a mantissa and depth make of them.
    maps = [(one, other) for one, other in alike if other.dim() == 4]
    for one, other in maps:
        assert (one - other).norm() < 0.05 * other.norm()


def test_without_bfloat16_the_model_stays_in_float32(monkeypatch, caplog):
    monkeypatch.setattr(form, "computes_in_bfloat16", lambda: False)
    model = trained_like(config("HRNet"))
    fast = optimize(model, dtype="bfloat16")
    assert "does not compute in bfloat16" in caplog.text
    same(results(fast), results(model))
