"""Checks of the inference form of a shipped configuration's model, for the tests of each system."""

import torch
from torch import nn

from densekit.d2.layers import FrozenBatchNorm2d
from densekit.d2.modeling import Backbone, build_model
from densekit.d2.structures import Instances
from densekit.deploy import form, inference_form, optimize, parity
from densekit.deploy.exported import ExportedModel
from densekit.deploy.graphs import graph_of
from tests.contract.shrinking import ROOT, shrunken

PICTURES = [
    torch.rand(3, *size, generator=torch.Generator().manual_seed(size[0])).mul(255).byte()
    for size in ((75, 101), (128, 96))
]
BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)


def config(name):
    """A shipped configuration, narrow, whose RetinaNet would find something."""
    cfg = shrunken(ROOT / "configs" / name)
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
    if backbone := next((module for module in model.modules() if isinstance(module, Backbone)), None):
        found.append(backbone(image[None].float() / 128 - 1))
    if hasattr(model, "forward_tensors"):
        found.append(model.forward_tensors(image[None].float() / 255))
    return tensors(found)


def tensors(value):
    """All tensors in an output."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Instances):
        value = {key: getattr(field, "tensor", field) for key, field in value.get_fields().items()}
    members = value.values() if isinstance(value, dict) else value
    return [tensor for member in members for tensor in tensors(member)]


def same(mine, theirs, tolerance=1e-5):
    """Compares two lists of tensors, relative to the largest number of each."""
    assert len(mine) == len(theirs) > 0
    for one, other in zip(mine, theirs):
        assert one.dtype == other.dtype and one.shape == other.shape
        if one.dtype is torch.bool:  # masks, of which a pixel at the threshold may change
            assert (one != other).float().mean() <= 1e-3
            continue
        scale = max(1.0, other.abs().max().item()) if other.numel() else 1.0  # boxes are pixels, logits what they are
        torch.testing.assert_close(one / scale, other / scale, atol=tolerance, rtol=0)


def check_equal(name):
    """The optimized model gives the same, and leaves the model alone."""
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


def check_bfloat16(name, monkeypatch):
    """bfloat16 is for features, and results are float32."""
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
    assert maps
    for one, other in maps:
        assert (one - other).norm() < 0.05 * other.norm()


@torch.no_grad()
def check_exactness(name):
    """The folded features are no further from those in float64 than the plain ones are, but for chance."""
    model = trained_like(config(name))
    images = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    plain, fast = tensors(model.backbone(images)), tensors(optimize(model).backbone(images))
    exact = tensors(model.backbone.double()(images.double()))
    for one, other, truth in zip(fast, plain, exact, strict=True):
        scale = truth.abs().max()
        assert (one - truth).abs().max() <= 2 * (other - truth).abs().max() + 2e-6 * scale


def spread_weights(model, ends):
    """Gives layers whose names end so random weights without bias, for scores around a half."""
    for key, parameter in model.named_parameters():
        if ends and key.removesuffix(".weight").removesuffix(".bias").endswith(ends):
            nn.init.normal_(parameter, std=0.02 if parameter.dim() > 1 else 0.0)


def graph_and_model(name, options, spread):
    """A call that runs a model's graph, not traced, on a picture (C, h, w), and the model.

    Args:
        name: of a shipped configuration.
        options: keys and values.
        spread: ends of the names of layers whose weights become random, with bias 0, for scores around a half.
    """
    cfg = config(name)
    cfg.merge_from_list([word for pair in options.items() for word in pair])
    model = trained_like(cfg)
    spread_weights(model, spread)
    graph = graph_of(model)

    about = {
        "kind": graph.kind,
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "settings": graph.settings,
        "input": {"placement": vars(graph.placement), "least_side": 1},
    }
    exported = ExportedModel(about, lambda inputs: list(graph(*inputs)))
    return lambda picture: exported([{"image": picture}])[0], model


def check_graph(name, options, spread):
    """Expects of a model's graph, not traced, what the model finds in pictures; arguments as above."""
    run, model = graph_and_model(name, options, spread)
    for picture in PICTURES:
        with torch.no_grad():
            expected = model([{"image": picture}])[0]
        assert "instances" not in expected or len(expected["instances"]) > 3
        assert parity.difference(run(picture), expected) < 5e-5  # two orders of float32 sums
