"""The inference form of a model: the same numbers, another copy, no training."""

import pytest
import torch
from torch import nn

import densekit
from densekit.d2.engine import HookBase
from densekit.d2.layers import Conv2d, FrozenBatchNorm2d
from densekit.d2.modeling import build_model
from densekit.deploy import form, inference_form, optimize
from densekit.layers.conv_norm import ConvNorm
from tests.deploy.forms import (
    BATCH_NORMS,
    check_bfloat16,
    check_equal,
    check_exactness,
    config,
    results,
    same,
    trained_like,
)

FAMILIES = {
    "R-CNN with FPN": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "R-CNN with C4": "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
    "RetinaNet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "semantic": "Misc/semantic_R_50_FPN_1x.yaml",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_optimized_model_gives_the_same_and_leaves_the_model_alone(name):
    check_equal(FAMILIES[name])


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_is_for_features_and_results_are_float32(name, monkeypatch):
    check_bfloat16(FAMILIES[name], monkeypatch)


@pytest.mark.parametrize("name", ["RetinaNet", "semantic"])
def test_folded_features_are_as_exact_as_the_plain_ones(name):
    check_exactness(FAMILIES[name])


def test_a_model_goes_on_training_beside_its_optimized_copy():
    cfg = config(FAMILIES["semantic"])
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
    model = trained_like(config(FAMILIES["R-CNN with FPN"]))
    own = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    linear = [m for m in optimize(model).modules() if isinstance(m, nn.Linear)]
    assert linear and all(id(module.weight) in own for module in linear)
    assert {name for name, _ in optimize(model).named_buffers()} <= {name for name, _ in model.named_buffers()}


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


def test_a_hook_of_the_training_is_not_copied_with_the_model_that_keeps_it(tmp_path):
    class Notes(HookBase):
        pass

    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    model.notes = [Notes()]
    with (tmp_path / "log.txt").open("w") as log:
        model.notes[0].trainer = log  # which nobody can copy
        assert optimize(model).notes[0] is model.notes[0]
        model.log = log
        assert inference_form(config(FAMILIES["semantic"]), model) is model


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
    model = trained_like(config(FAMILIES["R-CNN with C4"]))
    fast = optimize(model)
    same(results(optimize(fast)), results(fast))


def test_nothing_is_copied_where_nothing_is_asked_for():
    cfg = config(FAMILIES["R-CNN with FPN"])
    model = build_model(cfg).eval()
    cfg.MODEL.INFERENCE.FUSE = cfg.MODEL.INFERENCE.CHANNELS_LAST = False
    assert inference_form(cfg, model) is model
    cfg.MODEL.INFERENCE.DTYPE = "half"
    with pytest.raises(ValueError, match=r"MODEL\.INFERENCE\.DTYPE is 'half'; it can be 'float32' or 'bfloat16'"):
        inference_form(cfg, model)


def test_without_bfloat16_the_model_stays_in_float32(monkeypatch, caplog):
    monkeypatch.setattr(form, "computes_in_bfloat16", lambda: False)
    model = trained_like(config(FAMILIES["semantic"]))
    fast = optimize(model, dtype="bfloat16")
    assert "does not compute in bfloat16" in caplog.text
    same(results(fast), results(model))
