"""Recorded quantisation: fake quantiser, ranges of maps by every method, scales of weights, outputs in 8 bits."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.deploy.quantisation.calibration import Range
from densekit.deploy.quantisation.histograms import METHODS, Histogram, quantile
from densekit.deploy.quantisation.rounding import nearest
from tests.projects.yolov6.recorded_networks import Network, converted, loaded, rows_of
from tests.recorded_cases import Cases

Recorded = Mapping[str, Any]
_CFG = {"mode": "conv_relu", "depth": 0.1, "width": 1 / 32, "use_dfl": False, "reg_max": 0}
_OUTPUTS = 2e-3  # pixels; a number halfway between two steps goes to either
_INPUT, _WEIGHT = "._input_quantizer", "._weight_quantizer"
# Places without weights: the maps between the poolings, and those that were enlarged.
_POOL, _PYRAMID = "backbone.ERBlock_5.2.sppf.m", "backbone.bottom_up.pool"
_ENLARGED = {f"neck.upsample_feat{number}_quant": f"backbone.neck.join.{number}" for number in range(2)}


def _rounded(x: Tensor, top: Tensor | float) -> Tensor:
    """Numbers in signed steps up to a range."""
    step = Range(float(top), True).step
    return (x / step).round().clamp(-128, 127) * step


def _check_fake_quantiser(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    x = case["x"]
    cases.close("fake quantiser", _rounded(x, case["cases"]["tensor"]["amax"]), case["cases"]["tensor"]["y"])
    cases.not_checked("fake quantiser: narrow range, integers, gradients", "no part here trains in 8 bits")


def _check_weights(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    for kind, axis in (("conv", 0), ("transpose", 1)):
        found = nearest(case[f"{kind}_weight"].numpy(), axis, 127)
        cases.close(f"steps of a {kind} weight", 127 * found.steps, case[f"{kind}_amax"])


def _check_calibrators(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    for number, one in enumerate(case["cases"]):
        histogram = Histogram(one["num_bins"])
        for batch in one["batches"]:
            histogram.add(batch)
        cases.close(f"calibrator {number}: histogram", histogram.counts, one["hist"], atol=1)
        cases.close(f"calibrator {number}: last edge", histogram.edges[-1], one["last_edge"])
        for method in ("max", "entropy", "mse"):
            cases.close(f"calibrator {number}: {method}", METHODS[method](histogram, True), one[method])
        for percent, top in one["percentile"].items():
            cases.close(f"calibrator {number}: {percent} %", quantile(histogram, True, percent), top)


def _check_network(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    network = loaded({"state_dict": case["state_dict"], "cfg": _CFG}, 3).eval()
    histograms = _histograms(network, [images.float() / 255 for images in case["calib_uint8"][:2]])
    weights = {name.removesuffix(".weight"): value for name, value in network.named_parameters() if value.dim() == 4}
    methods: dict[str, Callable[[Histogram, bool], float]] = {**METHODS, "percentile": _share(case["percentile"])}
    images = case["test_uint8"].float() / 255
    for method, choose in methods.items():
        expected = {ours: float(case[method]["amax"][theirs]) for theirs, ours in _places(case[method]["amax"]).items()}
        tops = {place: choose(histograms[place], True) for place in expected}
        for place in [place for place, top in expected.items() if _cuts_everything(histograms[place], top)]:
            cases.not_checked(
                f"{method}: {place}", "the recorded range, a least of NaN, cuts all values of the map off"
            )
            tops[place] = expected[place]
        cases.close(f"{method}: ranges of maps", tops, expected)
        with _in_eight_bits(network, tops, weights):
            cases.close(f"{method}: outputs", rows_of(network, images), case[method]["out"], atol=_OUTPUTS)
        if method == "max":
            steps, theirs = _weight_steps(case[method]["amax"], weights)
            cases.close("steps of weights", steps, theirs)
            places = _places(case[method]["amax"])
            kept = {places[f"{name}{_INPUT}"] for name in case["partial"]["disabled"]}
            some = {name: weight for name, weight in weights.items() if name not in kept}
            with _in_eight_bits(network, tops, some):
                cases.close("layers in float: outputs", rows_of(network, images), case["partial"]["out"], atol=_OUTPUTS)
    cases.not_checked("qat_train", "nothing trains in 8 bits")


def _cuts_everything(histogram: Histogram, top: float) -> bool:
    return not histogram.counts[1 : round(top / histogram.width)].any()


def _share(case: Recorded) -> Callable[[Histogram, bool], float]:
    return lambda histogram, signed: quantile(histogram, signed, case["percentile"])


def _module_names(names: list[str]) -> dict[str, str]:
    """Their names of modules with weights -> ours."""
    found = converted({f"{name}.weight": torch.tensor(number) for number, name in enumerate(names)})
    return {names[int(number)]: ours.removesuffix(".weight") for ours, number in found.items()}


def _places(expected: Recorded) -> dict[str, str]:
    """Names of their quantisers of maps -> ours, the module that takes the map, or where it arises."""
    own = [name.removesuffix(_INPUT) for name in expected if name.endswith(_INPUT) and _POOL not in name]
    found = {f"{theirs}{_INPUT}": ours for theirs, ours in _module_names(own).items()}
    return found | {f"{_POOL}{_INPUT}": "pool"} | {theirs: f"{ours} enlarged" for theirs, ours in _ENLARGED.items()}


def _weight_steps(expected: Recorded, weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our largest weights of channels by the names of layers, and theirs."""
    names = _module_names([name.removesuffix(_WEIGHT) for name in expected if name.endswith(_WEIGHT)])
    found = {ours: nearest(weights[ours].detach().numpy(), int("join" in ours), 127).steps for ours in names.values()}
    return (
        {ours: 127 * steps for ours, steps in found.items()},
        {ours: expected[f"{theirs}{_WEIGHT}"] for theirs, ours in names.items()},
    )


def _repooled(top: float, _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Maps and their maxima side by side, where each pooling takes rounded maps."""
    x = inputs[0][:, : inputs[0].shape[1] // 4]
    parts = [x]
    for _ in range(3):
        parts.append(_pooled(_rounded(parts[-1], top)))
    return (torch.cat(parts, 1),)


def _pooled(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 5, 1, 2)


def _histograms(network: Network, batches: list[Tensor]) -> dict[str, Histogram]:
    """The histograms of all places."""
    found: dict[str, Histogram] = {}
    hooks = []

    def watch(place: str, module: nn.Module, output: bool) -> None:
        def add(values: Tensor) -> None:
            parts = [values, _pooled(values), _pooled(_pooled(values))] if place == "pool" else [values]
            for part in parts:
                found.setdefault(place, Histogram()).add(part)

        hook = (lambda _, inputs, result: add(result)) if output else (lambda _, inputs, result: add(inputs[0]))
        hooks.append(module.register_forward_hook(hook))

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            watch(name, module, False)
    watch("pool", network.get_submodule(f"{_PYRAMID}.enter"), True)
    for ours in _ENLARGED.values():
        watch(f"{ours} enlarged", network.get_submodule(ours), True)
    with torch.no_grad():
        for batch in batches:
            network(batch)
    for hook in hooks:
        hook.remove()
    return found


@contextmanager
def _in_eight_bits(network: Network, tops: Mapping[str, float], weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Rounds the weights, and maps where they enter a layer, are pooled or have been enlarged."""
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    hooks = []
    for name, weight in weights.items():
        weight.data = torch.from_numpy(nearest(weight.detach().numpy(), int("join" in name), 127).values)
        rounding = lambda _, inputs, top=tops[name]: (_rounded(inputs[0], top),)  # noqa: E731
        hooks.append(network.get_submodule(name).register_forward_pre_hook(rounding))
    for ours in _ENLARGED.values():
        enlarged = lambda _, inputs, output, top=tops[f"{ours} enlarged"]: _rounded(output, top)  # noqa: E731
        hooks.append(network.get_submodule(ours).register_forward_hook(enlarged))
    hooks.append(network.get_submodule(f"{_PYRAMID}.leave").register_forward_pre_hook(partial(_repooled, tops["pool"])))
    # The hook of the convolution below rounds what this one gives.
    yield
    for hook in hooks:
        hook.remove()
    for name, weight in weights.items():
        weight.data = kept[name]


CHECKS = {
    "fake_quant": _check_fake_quantiser,
    "weight_amax": _check_weights,
    "calibrators": _check_calibrators,
    "net": _check_network,
}
