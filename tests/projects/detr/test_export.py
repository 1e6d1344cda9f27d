"""DETR's graph for exported files: a detection of each query, as the model gives them."""

from tests.deploy.forms import check_graph


def test_the_graph_finds_what_the_model_finds():
    check_graph("detr/detr_R_50.yaml", {}, ("class_embed",))
