"""PointRend in exported files: refused by the name of what no graph is made of."""

import pytest

from tests.deploy.forms import graph_and_model


def test_point_heads_are_refused_by_name():
    with pytest.raises(ValueError, match=r"MODEL.ROI_.*NAME .* cannot be exported"):
        graph_and_model("pointrend/pointrend_rcnn_R_50_FPN_1x_coco.yaml", {}, ())
