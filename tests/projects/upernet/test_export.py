"""UPerNet's graph for exported files: scores at the size of the picture, and of the frame of the results."""

import pytest

from tests.deploy.forms import check_graph, graph_and_model

NAME = "upernet/upernet_R_50_ade20k.yaml"


def test_the_graph_finds_what_the_model_finds():
    check_graph(NAME, {}, ("predictor",))


def test_resizing_to_the_frame_is_refused():
    with pytest.raises(ValueError, match="RESIZE_TO output cannot be exported; set it to input"):
        graph_and_model(NAME, {"MODEL.SEM_SEG_HEAD.RESIZE_TO": "output"}, ())
