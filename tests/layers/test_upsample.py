"""Upsampling layers: the paper's costs, the authors' records, and what each layer is by definition."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from densekit.layers import CARAFE, UPSAMPLERS, build_upsampler
from tests.tolerances import close

# Table 1 of arXiv 1905.02188: operations for an input pixel and parameters, at 256 channels.
PAPER = {
    "nearest": ("0", "0"),
    "bilinear": ("8k", "0"),
    "nearest_conv": ("4.7M", "590k"),
    "bilinear_conv": ("4.7M", "590k"),
    "deconv": ("1.2M", "590k"),
    "pixel_shuffle": ("4.7M", "2.4M"),
    "spatial_attention": ("28k", "2.3k"),
    "carafe": ("199k", "74k"),
}


def as_printed(value: int, like: str) -> str:
    """The number with the unit and the digits of ``like``."""
    unit = like.lstrip("0123456789.")
    digits = len(like.removesuffix(unit).partition(".")[2])
    return f"{value / {'': 1, 'k': 1e3, 'M': 1e6}[unit]:.{digits}f}{unit}"


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_costs_are_the_papers(name):
    layer = build_upsampler(name, 256)
    flops, parameters = PAPER[name]
    assert as_printed(layer.flops_per_pixel(), flops) == flops
    assert as_printed(layer.num_parameters(), parameters) == parameters


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"up_kernel": 3, "encoder_kernel": 1, "compressed_channels": 16},
        {"up_kernel": 7, "encoder_kernel": 5, "scale_factor": 3},
        {"compressed_channels": 0},
    ],
)
def test_carafe_costs_what_torch_counts(options):
    """The formula has the biases of both convolutions, which torch's counter leaves out."""
    layer = CARAFE(32, **options)
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(1, 32, 4, 4))
    biases = sum(p.numel() for name, p in layer.named_parameters() if name.endswith("bias"))
    assert layer.flops_per_pixel() == counter.get_total_flops() / 16 + 2 * biases


def test_start_values_stay_in_their_bounds():
    assert build_upsampler("carafe", 256).channel_compressor.weight.abs().max() <= math.sqrt(6 / (256 + 64))


@pytest.mark.parametrize("normalizer", ["softmax", "sigmoid", "sigmoid_normalized"])
def test_kernels_by_the_equations(normalizer):
    layer = CARAFE(8, up_kernel=3, up_group=2, encoder_kernel=5, encoder_dilation=2, normalizer=normalizer)
    torch.nn.init.normal_(layer.content_encoder.weight)
    x = torch.randn(2, 8, 6, 7)
    kernels = layer.kernels(x).unflatten(1, (2, 9))
    assert kernels.shape == (2, 2, 9, 12, 14)
    encoded = layer.content_encoder(layer.channel_compressor(x)).unflatten(1, (2, 9, 2, 2))
    for row, column in ((0, 0), (3, 5), (11, 13)):
        logits = encoded[:, :, :, row % 2, column % 2, row // 2, column // 2]
        expected = {
            "softmax": logits.exp() / logits.exp().sum(2, keepdim=True),
            "sigmoid": logits.sigmoid(),
            "sigmoid_normalized": logits.sigmoid() / logits.sigmoid().sum(2, keepdim=True),
        }[normalizer]
        torch.testing.assert_close(kernels[..., row, column], expected, **close(torch.float32))
    assert (normalizer == "sigmoid") == (not torch.allclose(kernels.sum(2), torch.ones(())))


def test_uniform_kernels_are_a_box_blur():
    layer = CARAFE(3, up_kernel=3)
    torch.nn.init.zeros_(layer.content_encoder.weight)
    x = torch.randn(1, 3, 5, 6)
    blurred = F.avg_pool2d(x, 3, stride=1, padding=1)
    torch.testing.assert_close(layer(x), F.interpolate(blurred, scale_factor=2.0), **close(torch.float32))


def test_what_the_other_layers_are():
    x = torch.randn(1, 4, 5, 6)
    layer = build_upsampler("spatial_attention", 4)
    enlarged = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(layer(x), enlarged * torch.sigmoid(layer.attention(enlarged)))
    layer = build_upsampler("bilinear_conv", 4)
    torch.testing.assert_close(layer(x), layer.conv(enlarged))
    # A transposed convolution is a convolution of the input with zeros between its pixels.
    layer = build_upsampler("deconv", 4)
    spread = torch.zeros(1, 4, 10, 12)
    spread[:, :, ::2, ::2] = x
    turned = layer.deconv.weight.flip(2, 3).transpose(0, 1)
    torch.testing.assert_close(layer(x), F.conv2d(spread, turned, layer.deconv.bias, padding=1), **close(torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", UPSAMPLERS)
def test_every_layer_works_in_mixed_precision(name, dtype):
    layer, x = build_upsampler(name, 8), torch.randn(2, 8, 5, 6, requires_grad=True)
    exact = layer(x)
    exact.square().mean().backward()
    wanted = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    with torch.autocast("cpu", dtype=dtype):
        output = layer(x)
    output.float().square().mean().backward()
    torch.testing.assert_close(output.float(), exact, atol=0.05, rtol=0.05)
    for parameter, grad in zip(layer.parameters(), wanted):
        torch.testing.assert_close(parameter.grad, grad, atol=0.05 * grad.abs().max().item() + 1e-6, rtol=0.05)


@pytest.mark.parametrize("scale_factor", [1, 2, 3])
@pytest.mark.parametrize("name", UPSAMPLERS)
def test_every_layer_enlarges_and_learns(name, scale_factor):
    layer = build_upsampler(name, 6, scale_factor=scale_factor)
    for batch in (0, 2):
        x = torch.randn(batch, 6, 3, 5, requires_grad=True)
        output = layer(x)
        assert output.shape == (batch, 6, 3 * scale_factor, 5 * scale_factor)
        layer.zero_grad()
        output.square().sum().backward()
        assert x.grad is not None and all(p.grad is not None for p in layer.parameters())
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="'lanczos'; choose one of nearest"):
        build_upsampler("lanczos", 4)
    with pytest.raises(ValueError, match="up_group=3"):
        CARAFE(8, up_group=3)
    with pytest.raises(ValueError, match="encoder_kernel=4"):
        CARAFE(8, encoder_kernel=4)
    with pytest.raises(ValueError, match="normalizer='l2'"):
        CARAFE(8, normalizer="l2")
    with pytest.raises(ValueError, match="scale_factor=0"):
        build_upsampler("nearest", 4, scale_factor=0)
