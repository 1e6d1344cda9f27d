"""Graphs for exported files, not traced: the results of the host's models."""

import pytest
import torch

from densekit.deploy import parity
from tests.deploy.forms import graph_and_model

PICTURES = [
    torch.rand(3, *size, generator=torch.Generator().manual_seed(size[0])).mul(255).byte()
    for size in ((75, 101), (128, 96))
]
# Name -> options that leave some detections, and ends of the names of layers with random weights.
MODELS = {
    "COCO-Detection/retinanet_R_50_FPN_1x.yaml": (
        {"MODEL.RETINANET.TOPK_CANDIDATES_TEST": 40, "MODEL.RETINANET.SCORE_THRESH_TEST": 0.5},
        ("cls_score",),
    ),
    "Misc/semantic_R_50_FPN_1x.yaml": ({}, ("predictor",)),
    "detr/detr_R_50.yaml": ({}, ("class_embed",)),
}
REGIONS = {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.02, "MODEL.RPN.POST_NMS_TOPK_TEST": 50}
for name in (
    "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
):
    MODELS[name] = (REGIONS, ("cls_score", "predictor"))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_graph_finds_what_the_model_finds(name):
    options, spread = MODELS[name]
    run, model = graph_and_model(name, options, spread)
    for picture in PICTURES:
        expected = model([{"image": picture}])[0]
        assert "instances" not in expected or len(expected["instances"]) > 3
        assert parity.difference(run(picture), expected) < 1e-5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "pointrend/pointrend_rcnn_R_50_FPN_1x_coco.yaml",
            {},
            "MODEL.ROI_.*NAME .* cannot be exported",
        ),
        ("COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml", {}, "reads proposals from a file"),
    ],
)
def test_what_cannot_be_exported_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        graph_and_model(name, options, ())
