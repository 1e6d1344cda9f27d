"""Checks recorded outputs of CARAFE's authors: ``python -m tests.projects.carafe.recorded FILE``.

A file holds the operator (``op``), the layer (``pack*``), the pyramid (``neck*``), the mask head (``mask_head*``),
spreads of start values and the names of a whole detector; sizes and options are read from it.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import Backbone, build_mask_head, build_model
from densekit.layers import CARAFE, build_upsampler
from densekit.modeling.fpn import UpsamplerFPN
from densekit.ops.carafe import carafe
from densekit.projects.carafe import weights as weights  # registers mmdetection's names of its layers
from densekit.weights.parts import find_layout, rename_part
from tests.recorded_cases import Cases, main

CONFIG = str(Path(__file__).resolve().parents[3] / "configs/carafe/mask_rcnn_R_50_FPN_carafe_1x.yaml")
_NORMS = ("norm.weight", "norm.bias")  # which the authors count as parameters and the host freezes


class GivenMaps(Backbone):
    """A backbone that returns ``maps`` whatever the image, from the level ``finest`` on."""

    def __init__(self, channels: list[int], finest: int = 2) -> None:
        super().__init__()
        names = [f"map{k}" for k in range(len(channels))]
        self._out_features = names
        self._out_feature_channels = dict(zip(names, channels))
        self._out_feature_strides = {name: 2 ** (finest + k) for k, name in enumerate(names)}
        self.maps: list[torch.Tensor] = []

    def forward(self, x):
        return dict(zip(self._out_features, self.maps))


def check(recorded: Mapping[str, Any], cases: Cases) -> None:
    kinds = {"op": _operator, "pack": _layer, "neck": _pyramid, "mask_head": _mask_head, "init_std": _start_values}
    for key, value in recorded.items():
        if kind := next((kind for kind in kinds if key.startswith(kind)), None):
            kinds[kind](key, value, cases)
        elif key == "full_manifest":
            _names(value, recorded.get("n_params"), cases)
        elif key not in ("about", "n_params"):
            cases.not_checked(key, "a kind of case that this checker does not know")


def _single(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in weights.items()}


def _operator(key: str, records: list[dict[str, Any]], cases: Cases) -> None:
    for number, case in enumerate(records):
        name = f"{key} {number} (k {case['k']}, groups {case['group']}, scale {case['scale']})"
        features, kernels = (case[part].clone().requires_grad_() for part in ("x", "mask"))
        out = carafe(features, kernels, case["k"], case["group"], case["scale"])
        out.backward(case["grad_out"])
        ours = {"out": out, "grad_x": features.grad, "grad_mask": kernels.grad}
        exact = {"atol": 1e-10, "rtol": 1e-10} if features.dtype == torch.float64 else {}
        cases.close(name, ours, {part: case[part] for part in ours}, **exact)


def _layer(key: str, case: dict[str, Any], cases: Cases) -> None:
    layer = CARAFE(**case["config"])
    layer.load_state_dict(_single(case["state_dict"]))
    x = case["x"].clone().requires_grad_()
    cases.close(f"{key} kernels", layer.kernels(x), case["mask"])
    output = layer(x)
    output.square().sum().backward()  # the loss of the record
    cases.close(f"{key} output", output, case["out"])
    cases.close(f"{key} gradient of the input", x.grad, case["grad_x"])
    grads = {name: parameter.grad for name, parameter in layer.named_parameters()}
    cases.close(f"{key} gradients", grads, case["grads"])


def _pyramid(key: str, case: dict[str, Any], cases: Cases) -> None:
    options = {name: value for name, value in case["upsample_cfg"].items() if name != "type"}
    inputs, outputs = case["inputs"], case["outputs"]
    model = UpsamplerFPN(
        bottom_up := GivenMaps([x.shape[1] for x in inputs]),
        list(bottom_up.output_shape()),
        outputs[0].shape[1],
        upsampler=lambda channels: build_upsampler(case["upsample_cfg"]["type"], channels, **options),
        top_level="conv",
    )
    model.load_state_dict(rename_part("mmdetection", "neck", _single(case["state_dict"])))
    bottom_up.maps = inputs
    with torch.no_grad():
        found = model(torch.zeros(1, 3, *(4 * side for side in inputs[0].shape[2:])))
    cases.close(key, list(found.values()), list(outputs))


def _mask_head(key: str, case: dict[str, Any], cases: Cases) -> None:
    weights, regions = case["state_dict"], case["roi_feats"]
    compressor = weights.get("upsample.channel_compressor.weight")
    encoder, logits = weights["upsample.content_encoder.weight"], weights["conv_logits.weight"]
    keys = {
        "MODEL.ROI_MASK_HEAD.NUM_CONV": sum(name.startswith("convs.") for name in weights) // 2,
        "MODEL.ROI_MASK_HEAD.CONV_DIM": logits.shape[1],
        "MODEL.CARAFE.COMPRESSED_CHANNELS": 0 if compressor is None else len(compressor),
        "MODEL.CARAFE.ENCODER_KERNEL": encoder.shape[-1],
        "MODEL.CARAFE.UP_KERNEL": math.isqrt(len(encoder) // 4),  # k * k kernels for 2 x 2 pixels
        "MODEL.ROI_HEADS.NUM_CLASSES": len(logits),
    }
    cfg = load_config(CONFIG, [str(word) for pair in keys.items() for word in pair])
    head = build_mask_head(cfg, ShapeSpec(*regions.shape[1:]))
    head.load_state_dict(rename_part("mmdetection", "mask_head", _single(weights)))
    with torch.no_grad():
        cases.close(key, head.layers(regions), case["out"])


def _start_values(key: str, expected: dict[str, float], cases: Cases) -> None:
    """Spreads of start values, which are random: within four standard errors."""
    torch.manual_seed(0)
    layer = CARAFE(256)  # the pyramid's
    for name, spread in expected.items():
        values = layer.get_parameter(name)
        error = 4 * spread / math.sqrt(2 * values.numel()) + 1e-12
        cases.close(f"{key} {name}", values.std(), spread, atol=error, rtol=0)


def _names(manifest: Mapping[str, tuple[int, ...]], parameters: int | None, cases: Cases) -> None:
    with torch.device("meta"):
        model: nn.Module = build_model(load_config(CONFIG, ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", ""]))
        theirs = {name: torch.empty(tuple(shape)) for name, shape in manifest.items()}
    layout = find_layout(manifest)
    cases.equal("layout of the names", layout and layout.name, "mmdetection")
    shapes = {name: tuple(value.shape) for name, value in layout.convert(theirs).items()} if layout else {}
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items() if name in shapes}
    cases.equal("full_manifest under densekit's names", ours, shapes)
    if parameters is not None:
        frozen = sum(x.numel() for name, x in model.state_dict().items() if name.endswith(_NORMS))
        cases.equal("n_params", sum(p.numel() for p in model.parameters()) + frozen, parameters)


if __name__ == "__main__":
    main(check)
