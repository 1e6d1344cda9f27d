"""Graphs for exported files, not traced: the results of the host's models."""

import pytest

from tests.deploy.forms import check_graph, graph_and_model

# Name -> options that leave some detections, and ends of the names of layers with random weights.
MODELS = {
    "COCO-Detection/retinanet_R_50_FPN_1x.yaml": (
        {"MODEL.RETINANET.TOPK_CANDIDATES_TEST": 40, "MODEL.RETINANET.SCORE_THRESH_TEST": 0.5},
        ("cls_score",),
    ),
    "Misc/semantic_R_50_FPN_1x.yaml": ({}, ("predictor",)),
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
def test_the_graph_finds_what_the_model_finds(name):
    check_graph(name, *MODELS[name])


def test_a_model_that_reads_proposals_is_refused():
    with pytest.raises(ValueError, match="reads proposals from a file"):
        graph_and_model("COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml", {}, ())
