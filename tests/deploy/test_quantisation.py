"""Quantised graphs: ranges, rounding, the choice of what computes in 8 bits, and what comes out of the runtimes."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from densekit.deploy.quantisation.calibration import Calibration, Range, calibrate
from densekit.deploy.quantisation.histograms import METHODS, Histogram, least_divergence, least_squares
from densekit.deploy.quantisation.rounding import Moments, nearest, rounded_by_moments

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from densekit.deploy import targets  # noqa: E402
from densekit.deploy.quantisation.layers import structure_of  # noqa: E402
from densekit.deploy.quantisation.quantizing import quantised  # noqa: E402
from densekit.deploy.quantisation.rounding import rounded_weights  # noqa: E402
from densekit.deploy.quantisation.sensitivity import most_sensitive, sensitivities  # noqa: E402

ABOUT = {"inputs": ["image"], "outputs": ["scores"], "input": {"placement": {"multiple": 32}, "least_side": 160}}


class Net(nn.Module):
    """Has what lies between convolutions: ReLU, SiLU, a sum, a join, pooling, enlarging, and a head of two levels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.one, self.two = nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.down, self.up = nn.Conv2d(8, 8, 3, 2, 1), nn.ConvTranspose2d(8, 8, 2, 2)
        self.gate, self.shared = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 4, 3, 1, 1)

    def forward(self, image):
        first = torch.relu(self.stem(image[None] / 255))
        second = torch.relu(first + self.two(torch.relu(self.one(first))))
        low = torch.relu(self.down(second))
        wide = nn.functional.interpolate(low, scale_factor=2.0, mode="nearest")
        pooled = nn.functional.max_pool2d(second, 3, 1, 1)
        joined = nn.functional.silu(self.gate(torch.cat([second, pooled, wide, self.up(low)], 1)))
        return ((self.shared(joined)[0] - 0.1).sigmoid().flatten(1).mean(1) + self.shared(low)[0].flatten(1).mean(1),)


def pictures(count=6, sides=(160, 192)):
    generator = torch.Generator().manual_seed(1)
    coarse = 255 * torch.rand(count, 3, sides[0] // 8, sides[1] // 8, generator=generator)
    return [{"image": picture} for picture in nn.functional.interpolate(coarse, scale_factor=8.0, mode="bilinear")]


@pytest.fixture(scope="module")
def traced():
    """The model in ONNX, its structure, and what its maps are."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net().eval()
    content = targets.made(net, "onnx", torch.rand(3, 160, 224), (160, 224), ABOUT)
    model = onnx.load_from_string(content[".onnx"])
    structure = structure_of(model)
    calibration = Calibration("it")
    list(calibrate(model, [*structure.inputs(), *structure.gated()], pictures(), calibration))
    weights = rounded_weights(model, structure, pictures(), 63)
    return net, model, structure, calibration, weights


def slow_divergence(counts, groups):
    """The divergence of each range, from 128 bins on, by the definition."""
    counts, found = counts.astype(float).copy(), []
    counts[0] = counts[1]
    for size in range(128, len(counts) + 1):
        group = np.digitize(np.arange(size), np.linspace(0, size, groups + 1)) - 1
        spread = np.zeros(size)
        for number in range(groups):
            filled = (group == number) & (counts[:size] > 0)
            if filled.any():
                spread[filled] = counts[:size][group == number].sum() / filled.sum()
        true = counts[:size].copy()
        true[-1] += counts[size:].sum()
        true, spread = true / true.sum(), spread / spread.sum()
        with np.errstate(divide="ignore"):
            found.append(sum(p * np.log(p / q) if q else np.inf for p, q in zip(true, spread) if p))
    return np.array(found)


@pytest.mark.parametrize("signed", (True, False))
def test_the_least_divergence_is_that_of_its_definition(signed):
    histogram = Histogram(300)
    histogram.add(torch.randn(4000, generator=torch.Generator().manual_seed(0)))
    expected = slow_divergence(histogram.counts, 128 if signed else 256)
    best = 300 - int(np.argmin(expected[::-1]))
    assert least_divergence(histogram, signed) == pytest.approx(histogram.edges[best])


@pytest.mark.parametrize("signed", (True, False))
def test_the_least_squares_are_least(signed):
    histogram = Histogram(512)
    values = torch.randn(20000, generator=torch.Generator().manual_seed(0)) ** 3  # far outliers
    histogram.add(values)

    def error(top):
        step = top / (127 if signed else 255)
        return ((values.abs() / step).round().clamp(max=top / step) * step - values.abs()).square().mean()

    found = error(least_squares(histogram, signed))
    assert found < error(histogram.highest)
    assert all(found <= error(top) * 1.02 for top in histogram.edges[150::20])


def test_a_histogram_counts_everything_once():
    histogram, generator = Histogram(64), torch.Generator().manual_seed(0)
    parts = [torch.zeros(7), 1e-3 * torch.rand(100, generator=generator), torch.rand(100, generator=generator) - 1]
    for part in parts:
        histogram.add(part)
    assert histogram.counts.sum() == 207 and len(histogram.counts) <= 8192  # bins were joined
    assert histogram.signed and histogram.highest == pytest.approx(parts[2].abs().max().item())
    assert histogram.edges[-1] >= histogram.highest
    again = Histogram.restored(histogram.state())
    for method in METHODS.values():
        assert 0 < method(histogram, True) <= histogram.edges[-1]
        assert method(again, True) == method(histogram, True)
    with pytest.raises(ValueError, match="not finite"):
        histogram.add(torch.tensor([1.0, torch.nan]))


def test_rounding_by_moments_is_nearly_the_best_there_is():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 1, generator=generator) + 0.3 * torch.randn(200, 5, generator=generator)
    weight = torch.tensor([[5.0, 0.31, -0.42, 0.73, 0.2]])
    moments = Moments(5)
    moments.add(inputs)
    found, steps, shift = rounded_by_moments(weight, moments, 7)
    whole = found / steps[:, None]
    assert torch.allclose(whole, whole.round(), atol=1e-6) and whole.abs().max() <= 7

    def error(values):
        return (inputs.double() @ (values - weight.double()).T).square().mean().item()

    choices = itertools.product(*[(np.floor(w), np.ceil(w)) for w in (weight.double() / steps[:, None])[0].tolist()])
    best = min(error(torch.tensor([choice]).double() * steps) for choice in choices)
    plain = torch.from_numpy(nearest(weight.numpy(), 0, 7).values).double()
    assert error(found) < 0.5 * error(plain) and error(found) < 2 * best
    assert shift.item() == pytest.approx((inputs.double() @ (weight.double() - found).T).mean().item(), abs=1e-6)


def test_layers_are_those_with_weights_and_joints_lie_between(traced):
    _, _, structure, _, weights = traced
    names = [layer.name for layer in structure.layers]
    assert names == ["stem", "one", "two", "down", "up", "gate", "shared"]
    assert len(structure.layers[-1].nodes) == 2  # a head of two levels is one layer
    assert sorted(joint.op_type for joint in structure.joints) == ["Add", "Concat", "MaxPool", "Resize"]
    gate = structure.layers[5].nodes[0]
    assert structure.gated() == [gate.output[0]] and structure.gated(["gate"]) == []
    assert [part.op_type for part in structure.tail(gate)] == ["Sigmoid", "Mul"]
    assert all(np.abs(w.values / w.steps.max()).max() <= 63.5 for w in weights.values())


@pytest.mark.parametrize("target", ("onnx", "openvino"))
def test_eight_bits_give_nearly_what_floats_give(traced, target):
    if target == "openvino":
        pytest.importorskip("openvino")
    net, model, structure, calibration, weights = traced
    before = model.SerializeToString()
    ranges = calibration.ranges("mse")
    changed = quantised(model, structure, ranges, weights, float_layers=["down"], gates=target == "onnx")
    assert model.SerializeToString() == before
    assert targets.metadata(changed) == targets.metadata(model) != ""
    kinds = {entry.name: entry.data_type for entry in changed.graph.initializer}
    for layer in structure.layers:
        assert (kinds.get(f"{layer.weight}_quantized") == onnx.TensorProto.INT8) == (layer.name != "down")
    data = changed.SerializeToString()
    content = {".onnx": data} if target == "onnx" else targets.openvino_of(data, targets.metadata(changed))
    about, run = targets.opened(content, target)
    assert about == ABOUT
    for sides in ((160, 192), (224, 160)):
        for feed in pictures(2, sides):
            with torch.no_grad():
                (expected,) = net(feed["image"])
            (found,) = run([feed["image"]])
            assert 0 < (found - expected).abs().max() < 0.03 * expected.abs().max()


def test_sensitivity_is_the_error_of_one_layer_alone(traced):
    net, model, structure, calibration, weights = traced
    found = sensitivities(model, structure, calibration.ranges("max"), weights, pictures(2))
    by_name = {one.layer: one for one in found}
    limits = Range(calibration.histograms[structure.layers[0].nodes[0].input[0]].highest, False)
    exact, coarse = [], []
    with torch.no_grad():
        for feed in pictures(2):
            image = feed["image"][None] / 255
            rounded = (image / limits.step).round().clamp(0, 255) * limits.step
            exact.append(torch.relu(net.stem(image)))
            weight = torch.from_numpy(weights["stem"].values)
            coarse.append(torch.relu(nn.functional.conv2d(rounded, weight, net.stem.bias, 2, 1)))
    exact, coarse = torch.cat(exact).double(), torch.cat(coarse).double()
    error = (exact - coarse).square()
    assert by_name["stem"].mse == pytest.approx(error.mean().item(), rel=0.02)
    assert by_name["stem"].snr == pytest.approx(10 * np.log10((exact.square().sum() / error.sum()).item()), abs=0.1)
    cosine = (exact * coarse).sum() / (exact.norm() * coarse.norm())
    assert by_name["stem"].cosine == pytest.approx(cosine.item(), abs=1e-5)
    worst = most_sensitive(found, 2)
    assert len(worst) == 2 and all(by_name[worst[1]].snr <= one.snr for one in found if one.layer != worst[0])


def test_a_calibration_goes_on(traced, tmp_path):
    _, model, structure, whole, _ = traced
    half = Calibration("it")
    list(calibrate(model, [*structure.inputs(), *structure.gated()], pictures()[:3], half))
    half.save(tmp_path / "kept.npz")
    rest = Calibration.load(tmp_path / "kept.npz", "it")
    list(calibrate(model, [*structure.inputs(), *structure.gated()], pictures()[rest.pictures :], rest))
    assert rest.pictures == whole.pictures == 6
    for method in METHODS:
        assert rest.ranges(method) == whole.ranges(method)
    assert Calibration.load(tmp_path / "kept.npz", "another").pictures == 0
    (tmp_path / "kept.npz").write_bytes(b"cut")
    assert Calibration.load(tmp_path / "kept.npz", "it").pictures == 0


def test_a_model_without_convolutions_is_refused():
    content = targets.made(Flat(), "onnx", torch.rand(3, 160, 224), (160, 224), ABOUT)
    with pytest.raises(ValueError, match="only convolutional models can be quantised"):
        structure_of(onnx.load_from_string(content[".onnx"]))


class Flat(nn.Module):
    def forward(self, image):
        return (image.mean(dim=(1, 2)),)
