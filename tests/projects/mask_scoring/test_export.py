"""Mask scores of graphs for exported files."""

import pytest

from tests.deploy.forms import check_graph

REGIONS = {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.02, "MODEL.RPN.POST_NMS_TOPK_TEST": 50}


@pytest.mark.parametrize("shown", ["selected", "product", "all", "high_res"])
@pytest.mark.parametrize("name", ["mask_scoring_R_50_FPN_1x.yaml", "cascade_mask_scoring_R_50_FPN_3x.yaml"])
def test_the_graph_scores_masks_as_the_model_does(name, shown):
    options = REGIONS | {"MODEL.MASK_SCORING.INPUT": shown}
    check_graph(f"mask_scoring/{name}", options, ("cls_score", "predictor", "maskiou"))
