"""The inference form of the systems' models: the same numbers, and bfloat16 for features alone."""

import pytest

from densekit.deploy import optimize
from tests.deploy.forms import check_bfloat16, check_equal, config, results, same, trained_like

SYSTEMS = {
    "DETR": "detr/detr_R_50.yaml",
    "UPerNet": "upernet/upernet_R_50_cityscapes.yaml",
    "HRNet": "hrnet/hrnet_w18_small_v1_camvid.yaml",
    "HRNet's pyramid": "hrnet/faster_rcnn_w18_1x.yaml",
    "Swin": "swin/mask_rcnn_swin_T_FPN_1x.yaml",
    "MPViT": "mpvit/mask_rcnn_mpvit_T_FPN_1x.yaml",
    "YOLOv6": "yolov6/yolov6_n.yaml",
    "YOLOv6 with silu": "yolov6/yolov6_l.yaml",
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_optimized_model_gives_the_same_and_leaves_the_model_alone(name):
    check_equal(SYSTEMS[name])


@pytest.mark.parametrize("name", SYSTEMS)
def test_bfloat16_is_for_features_and_results_are_float32(name, monkeypatch):
    check_bfloat16(SYSTEMS[name], monkeypatch)


def test_optimizing_twice_and_copying_change_nothing():
    fast = optimize(trained_like(config(SYSTEMS["YOLOv6"])))
    same(results(optimize(fast)), results(fast))
