"""YOLOv6's graph for exported files: the detections of the model itself, in and without a frame."""

import pytest
import torch

from densekit.deploy import parity
from tests.deploy.forms import graph_and_model


@pytest.mark.parametrize("frame", [0, 160])
def test_the_graph_finds_what_the_model_finds(frame):
    options = {"MODEL.YOLOV6.FRAME_TEST": frame, "MODEL.YOLOV6.SCORE_THRESH_TEST": 0.4}
    run, model = graph_and_model("yolov6/yolov6_n.yaml", options, (".classes",))
    picture = torch.rand(3, 75, 101, generator=torch.Generator().manual_seed(0)).mul(255).byte()
    with torch.no_grad():
        expected = model([{"image": picture}])[0]
        assert len(expected["instances"]) > 3
        assert parity.difference(run(picture), expected) < 1e-5


def test_a_position_of_one_class_only_is_refused():
    with pytest.raises(ValueError, match="MULTI_LABEL_TEST False cannot be exported"):
        graph_and_model("yolov6/yolov6_n.yaml", {"MODEL.YOLOV6.MULTI_LABEL_TEST": False}, ())
