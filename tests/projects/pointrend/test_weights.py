"""Published weights of PointRend: all names become those of the model."""

from tests.converting import assert_converts_renamed


def early_pointrend(name: str) -> str:
    name = name.replace("mask_head.coarse_head.fc", "mask_coarse_head.coarse_mask_fc")
    return name.replace("mask_head.coarse_head", "mask_coarse_head").replace("mask_head.point_head", "mask_point_head")


def test_early_names(tmp_path, capsys):
    config = "pointrend/pointrend_rcnn_R_50_FPN_1x_coco.yaml"
    assert_converts_renamed(tmp_path, early_pointrend, config, "Detectron2's early PointRend", capsys)
