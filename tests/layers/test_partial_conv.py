"""Partial convolution against its definition, window by window."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck

from densekit.layers.partial_conv import PartialConv2d
from tests.tolerances import close

CASES = {
    "plain": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 5, "stride": 2, "padding": 2},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "unpadded": {"kernel_size": 2, "stride": 2},
    "without bias": {"kernel_size": 3, "padding": 1, "bias": False},
    "without window": {"kernel_size": 3, "padding": 1, "rescale": False},
}


def reference(layer, x, mask):
    """Equations 1 and 2 for every output, in plain Python."""
    n, c, height, width = x.shape
    mask = mask.expand(n, -1, -1, -1)
    (k, _), (s, _), (p, _), (d, _) = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    size = [(side + 2 * p - d * (k - 1) - 1) // s + 1 for side in (height, width)]
    y = x.new_zeros(n, layer.out_channels, *size)
    new_mask = torch.zeros_like(y)
    per_group = layer.out_channels // layer.groups
    for b, o, i, j in itertools.product(range(n), range(layer.out_channels), *map(range, size)):
        first = o // per_group * (c // layer.groups)
        total = raw = 0.0
        for q, u, v in itertools.product(range(c // layer.groups), range(k), range(k)):
            row, column = i * s - p + u * d, j * s - p + v * d
            if 0 <= row < height and 0 <= column < width:
                valid = mask[b, first + q if mask.shape[1] > 1 else 0, row, column]
                total = total + (valid if mask.shape[1] > 1 or q == 0 else 0)
                raw = raw + layer.weight[o, q, u, v] * x[b, first + q, row, column] * valid
        if total > 0:
            window = k * k * (c // layer.groups if mask.shape[1] > 1 else 1) if layer.rescale else 1
            y[b, o, i, j] = raw * window / total + (layer.bias[o] if layer.bias is not None else 0)
            new_mask[b, o, i, j] = 1
    return y, new_mask


def inputs(dtype=torch.float64, channels=4, mask_channels=1):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, 7, 6, generator=generator, dtype=torch.float64)
    mask = (torch.rand(2, mask_channels, 7, 6, generator=generator) > 0.6).double()
    mask[0, :, :4, :4] = 0  # whole windows without a valid pixel
    return x.to(dtype), mask.to(dtype)


@pytest.mark.parametrize("mask_channels", [1, 4])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_equals_the_definition(options, mask_channels):
    layer = PartialConv2d(4, 6, **options).double()
    x, mask = inputs(mask_channels=mask_channels)
    y, new_mask = layer(x, mask)
    expected, expected_mask = reference(layer, x, mask)
    torch.testing.assert_close(y, expected, **close(torch.float64))
    assert torch.equal(new_mask.expand_as(y), expected_mask)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_gradients(options):
    layer = PartialConv2d(4, 2, **options).double()
    x, mask = inputs()
    assert gradcheck(lambda x, *own: layer(x, mask[:1])[0], (x[:1].requires_grad_(), *layer.parameters()))


def test_a_mask_of_ones_without_padding_is_a_convolution():
    layer = PartialConv2d(4, 3, 3).double()
    x, _ = inputs()
    y, mask = layer(x, torch.ones_like(x))
    plain = torch.nn.functional.conv2d(x, layer.weight, layer.bias)
    torch.testing.assert_close(y, plain, **close(torch.float64))
    assert mask.all()


@pytest.mark.parametrize("mask_channels", [1, 4])
def test_valid_pixels_alone_decide(mask_channels):
    layer = PartialConv2d(4, 3, 3, padding=1)
    x, mask = inputs(torch.float32, mask_channels=mask_channels)
    other = torch.where(mask > 0, x, 1e4 * torch.randn_like(x))
    for mine, changed in zip(layer(x, mask), layer(other, mask)):
        assert torch.equal(mine, changed)


def test_nothing_is_remembered_between_calls():
    layer = PartialConv2d(4, 3, 3, padding=1)
    x, mask = inputs(torch.float32)
    first = layer(x, mask)
    layer(x, 1 - mask)
    layer(x)
    assert all(torch.equal(a, b) for a, b in zip(first, layer(x, mask)))
    assert not list(layer.buffers())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_and_near(dtype):
    layer = PartialConv2d(4, 3, 7, padding=3)
    x, mask = inputs(torch.float32)
    y, new_mask = layer(x, mask)
    half, half_mask = PartialConv2d(4, 3, 7, padding=3).to(dtype), None
    half.load_state_dict(layer.state_dict())
    z, half_mask = half(x.to(dtype), mask.to(dtype))
    assert z.dtype == dtype and torch.isfinite(z).all()
    torch.testing.assert_close(z.float(), y, **(close(dtype) | {"atol": 4 * close(dtype)["atol"]}))
    assert torch.equal(half_mask.float(), new_mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = layer(x, mask)
    torch.testing.assert_close(mixed.float(), y, atol=0.1, rtol=0.1)


def test_exported_file_gives_the_same_numbers(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    layer = PartialConv2d(4, 3, 3, stride=2, padding=1).eval()
    x, mask = inputs(torch.float32)
    path = str(tmp_path / "layer.onnx")
    torch.onnx.export(layer, (x, mask), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    y, new_mask = session.run(None, dict(zip(names, (x.numpy(), mask.numpy()))))
    torch.testing.assert_close(torch.from_numpy(y), layer(x, mask)[0].detach(), **close(torch.float32))
    assert torch.equal(torch.from_numpy(new_mask), layer(x, mask)[1])


def test_a_mask_that_does_not_fit_is_refused():
    layer = PartialConv2d(4, 3, 3, padding=1)
    x, mask = inputs(torch.float32)
    for wrong in (mask[..., 1:], mask[0], mask.expand(-1, 3, -1, -1)):
        with pytest.raises(ValueError, match="does not fit"):
            layer(x, wrong)
    with pytest.raises(ValueError, match="zeros"):
        PartialConv2d(4, 3, 3, padding=1, padding_mode="reflect")
