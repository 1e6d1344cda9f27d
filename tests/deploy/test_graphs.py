"""Graphs for exported files, not traced: the results of the host's models."""

import pytest
import torch

from densekit.deploy import targets
from densekit.deploy.graphs import graph_of
from tests.deploy.forms import check_graph, config, graph_and_model, trained_like

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


def test_the_graph_scores_classes_as_the_classifier_does():
    check_graph("quickstart/classifier_R_18_photos.yaml", {}, ("classifier",))


class Proposals(torch.nn.Module):
    """The part of a detector's graph whose number of candidates depends on the size of the picture; poor maps do."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector

    def forward(self, image, size):
        strides = {f"p{level}": 2**level for level in range(2, 7)}
        grey = image[None].mean(1, keepdim=True).expand(-1, 16, -1, -1)
        maps = {name: torch.nn.functional.avg_pool2d(grey, stride) for name, stride in strides.items()}
        return (self.detector._proposals(maps, size),)


def test_a_trace_holds_where_a_map_has_fewer_anchors_than_candidates():
    """The map of stride 32 has 81 anchors of the small picture, and 108 of the traced one; 100 are candidates."""
    model = trained_like(config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"))
    part = Proposals(graph_of(model))
    placement = part.detector.placement
    about = {"inputs": ["image", "size"], "input": {"placement": vars(placement), "least_side": 64}}
    pictures = [torch.rand(3, *size) * 255 for size in ((96, 384), (96, 288))]
    images = [placement.place(picture)[0] for picture in pictures]
    sizes = [(picture.shape[1], picture.shape[2]) for picture in pictures]
    content = targets.made(part, "program", images[0], sizes[0], about)
    _, run = targets.opened(content, "program")
    for image, size in zip(images, sizes):
        inputs = [image, torch.tensor(size, dtype=torch.float32)]
        with torch.no_grad():
            torch.testing.assert_close(run(inputs)[0], part(*inputs)[0])
