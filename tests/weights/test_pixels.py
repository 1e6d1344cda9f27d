"""The preprocessing of published weights, recognised by their names, against that of a configuration."""

import logging

import pytest
import torch

from densekit.d2.modeling import build_model
from densekit.engine.loading import load_weights
from densekit.weights import mismatch
from densekit.weights.names import pixels_of
from densekit.weights.pixels import IMAGENET_RGB
from tests.contract.shrinking import ROOT, shrunken

MEAN, DEVIATION = list(IMAGENET_RGB.mean), list(IMAGENET_RGB.deviation)
CASES = {
    "right": ("RGB", MEAN, DEVIATION, False),
    "rounded": ("RGB", [123.7, 116.3, 103.5], [58.4, 57.1, 57.4], False),
    "other order": ("BGR", MEAN, DEVIATION, True),
    "all turned round": ("BGR", MEAN[::-1], DEVIATION[::-1], True),
    "no deviation": ("RGB", MEAN, [1.0, 1.0, 1.0], True),
    "one channel": ("L", [114.0], [57.0], True),
}


@pytest.mark.parametrize("case", CASES)
def test_whatever_differs_is_said_with_the_keys(case):
    order, mean, deviation, differs = CASES[case]
    note = mismatch({IMAGENET_RGB}, order, mean, deviation, "they")
    assert bool(note) is differs
    assert not differs or all(key in note for key in ("INPUT.FORMAT RGB", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"))
    assert mismatch(set(), order, mean, deviation, "they") == ""


def test_own_checkpoints_tell_nothing():
    model = build_model(shrunken(ROOT / "configs/quickstart/retinanet_R_18_FPN_bccd.yaml"))
    assert pixels_of({"model": model.state_dict()}) == set()


@pytest.mark.parametrize("right", [True, False])
def test_loading_says_it(tmp_path, caplog, right):
    cfg = shrunken(ROOT / "configs/swin/retinanet_swin_T_FPN_1x.yaml")
    model = build_model(cfg)
    prefix = "backbone.bottom_up."
    weights = {n.removeprefix(prefix): x for n, x in model.state_dict().items() if n.startswith(prefix)}
    torch.save({"model": {n: x for n, x in weights.items() if not n.startswith("norm")}}, tmp_path / "swin.pth")
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = str(tmp_path / "swin.pth"), str(tmp_path)
    if not right:
        cfg.INPUT.FORMAT = "BGR"
    with caplog.at_level(logging.WARNING):
        load_weights(cfg, model)
    assert ("PIXELS DIFFER" in caplog.text) is not right
