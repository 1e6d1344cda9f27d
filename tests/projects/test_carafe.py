"""CARAFE in pyramid and mask head: the authors' records, the host's own results, mmdetection's weights."""

import sys
from pathlib import Path

import pytest
import torch
from tolerances import PARITY

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone
from densekit.ops.weights.layouts import find_layout

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/carafe/mask_rcnn_R_50_FPN_carafe_1x.yaml")
IMAGE = ShapeSpec(channels=3)


@pytest.fixture(scope="module")
def recorded(reference_dir):
    return torch.load(reference_dir / "carafe.pt")


@pytest.fixture(scope="module")
def det_tensor(reference_dir):
    sys.path.insert(0, str(reference_dir))
    try:
        from detfill import det_tensor
    finally:
        sys.path.pop(0)
    return det_tensor


class GivenMaps(Backbone):
    """A backbone whose feature maps are its input."""

    def __init__(self, channels: list[int], finest: int = 2) -> None:
        super().__init__()
        names = [f"res{finest + k}" for k in range(len(channels))]
        self._out_features = names
        self._out_feature_channels = dict(zip(names, channels))
        self._out_feature_strides = {name: 2 ** (finest + k) for k, name in enumerate(names)}

    def forward(self, maps):
        return dict(zip(self._out_features, maps))


@pytest.fixture
def given_maps():
    """Makes a registered backbone; the registry is left as it was."""
    added = []

    def register(channels: list[int], finest: int = 2) -> str:
        name = f"given_maps_{len(added)}"
        BACKBONE_REGISTRY.register(type(name, (), {"__new__": lambda cls, cfg, shape: GivenMaps(channels, finest)}))
        added.append(name)
        return name

    yield register
    for name in added:
        del BACKBONE_REGISTRY._obj_map[name]


def config(**keys):
    cfg = load_config(CONFIG, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    for key, value in keys.items():
        cfg.merge_from_list([f"MODEL.{key.replace('__', '.')}", value])
    return cfg


def as_float(weights):
    return {name: value.float() for name, value in weights.items()}


def test_pyramid_meets_the_record(recorded, given_maps):
    case = recorded["neck_even"]
    cfg = config(FPN__BOTTOM_UP=given_maps([8, 16, 24, 32]), FPN__OUT_CHANNELS=16, CARAFE__COMPRESSED_CHANNELS=8)
    pyramid = build_backbone(cfg, IMAGE)
    weights = {"backbone.conv1.weight": torch.zeros(1), "rpn_head.rpn_conv.weight": torch.zeros(1)}
    weights |= {f"neck.{name}": value.float() for name, value in case["state_dict"].items()}
    converted = find_layout(weights).convert(weights)
    state = {n.removeprefix("backbone."): v for n, v in converted.items() if n.startswith("backbone.fpn")}
    pyramid.load_state_dict(state)
    assert pyramid.size_divisibility == 64
    outputs = pyramid(case["inputs"])
    assert list(outputs) == ["p2", "p3", "p4", "p5", "p6"]
    for output, expected in zip(outputs.values(), case["outputs"]):
        torch.testing.assert_close(output, expected, **PARITY)
