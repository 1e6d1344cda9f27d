"""Fast R-CNN as published: truncated layers against the definition, its background range, and the drawing."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import build_roi_heads
from densekit.d2.modeling.roi_heads import build_box_head
from densekit.d2.structures import Boxes, Instances
from densekit.d2.utils.events import EventStorage
from densekit.projects.rcnn.draw_pooling import main
from densekit.projects.rcnn.truncated import TruncatedLinear, truncated_factors
from tests.contract.shrinking import ROOT, shrunken
from tests.tolerances import close

CONFIG = ROOT / "configs" / "rcnn" / "fast_rcnn_published_R_50_coco.yaml"


def head(*ranks):
    options = ["MODEL.ROI_BOX_HEAD.FC_DIM", 24, "MODEL.FAST_RCNN.SVD_RANKS", list(ranks)]
    torch.manual_seed(1)
    return build_box_head(load_config(str(CONFIG), options), ShapeSpec(channels=5, height=3, width=3)).eval()


class TestTruncation:
    def test_the_lost_part_is_that_of_the_dropped_singular_values(self):
        weight = torch.randn(70, 90, dtype=torch.float64)
        values = torch.linalg.svdvals(weight)
        for rank in (1, 8, 64):
            left, right = truncated_factors(weight, rank)
            assert left.shape == (70, rank) and right.shape == (rank, 90)
            lost = (weight - left @ right).norm()  # Eckart and Young
            torch.testing.assert_close(lost, values[rank:].square().sum().sqrt(), **close(torch.float64))

    def test_all_singular_values_give_the_matrix_back(self):
        weight = torch.randn(7, 12, dtype=torch.float64)
        left, right = truncated_factors(weight, 7)
        torch.testing.assert_close(left @ right, weight, **close(torch.float64))

    def test_full_rank_changes_nothing(self):
        x = torch.randn(4, 5, 3, 3)
        assert torch.equal(head(24, 24)(x), head()(x)) and torch.equal(head(0, 0)(x), head()(x))

    def test_each_layer_keeps_its_number(self):
        x, whole, cut = torch.randn(4, 5, 3, 3), head(), head(6, 3)
        y = x.flatten(1)
        for layer, rank in ((whole.fc1, 6), (whole.fc2, 3)):
            left, right = truncated_factors(layer.weight, rank)
            y = (y @ right.T @ left.T + layer.bias).relu()
        torch.testing.assert_close(cut(x), y, **close(torch.float32))
        assert not torch.allclose(cut(x), whole(x), atol=1e-3)
        assert torch.equal(cut.train()(x), whole.train()(x))  # it is inference's alone

    def test_checkpoints_are_those_of_the_whole_layers(self):
        x, cut, other = torch.randn(4, 5, 3, 3), head(6, 3), head(6, 3)
        before = cut(x)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.5)
        assert set(cut.state_dict()) == set(head().state_dict())
        cut.load_state_dict(other.state_dict())  # the factors follow the weights
        assert torch.equal(cut(x), other(x)) and not torch.equal(cut(x), before)

    @pytest.mark.parametrize("ranks", [(6,), (6, 3, 2), (6, -1)])
    def test_ranks_that_do_not_fit(self, ranks):
        with pytest.raises(ValueError, match="SVD_RANKS"):
            head(*ranks)

    def test_no_singular_value_is_refused(self):
        with pytest.raises(ValueError, match="at least one"):
            TruncatedLinear(nn.Linear(3, 3), 0)
        with pytest.raises(ValueError, match="not 4"):
            truncated_factors(torch.zeros(3, 5), 4)


def test_background_overlaps_an_object_a_little():
    cfg = shrunken(CONFIG)
    cfg.MODEL.ROI_HEADS.PROPOSAL_APPEND_GT = False
    heads = build_roi_heads(cfg, {"res4": ShapeSpec(channels=8, stride=16)})
    truth, proposals = Instances((100, 100)), Instances((100, 100))
    truth.gt_boxes, truth.gt_classes = Boxes(torch.tensor([[0.0, 0.0, 100.0, 100.0]])), torch.tensor([7])
    overlaps = torch.tensor([0.0, 0.05, 0.09, 0.1, 0.3, 0.49, 0.5, 0.9])
    boxes = torch.zeros(len(overlaps), 4)
    boxes[:, 2], boxes[:, 3] = 100, overlaps * 100
    proposals.proposal_boxes, proposals.objectness_logits = Boxes(boxes), torch.zeros(len(overlaps))
    with EventStorage():
        (sampled,) = heads.label_and_sample_proposals([proposals], [truth])
    labels = {
        round(float(box[3]) / 100, 2): int(label)
        for box, label in zip(sampled.proposal_boxes.tensor, sampled.gt_classes)
    }
    background = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    assert labels == {0.1: background, 0.3: background, 0.49: background, 0.5: 7, 0.9: 7}


class TestDrawing:
    def test_the_table_says_how_far_a_box_moves(self, tmp_path, capsys):
        output = tmp_path / "pooling.png"
        asked = ["--box", "0", "0", "665", "665", "--stride", "32", "--rounding", "floor", "--output", str(output)]
        assert main(asked) == 0
        lines = {
            line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line[:3] == "ROI"
        }
        assert lines["ROIPool"][2] == "20.78" and lines["ROIPool"][6] == "20" and lines["ROIPool"][10] == "-25"
        assert set(lines["ROIAlignV2"][8:]) == {"0"}
        assert np.asarray(Image.open(output)).std() > 0

    def test_a_box_without_extent_is_refused(self):
        with pytest.raises(ValueError, match="x0 < x1"):
            main(["--box", "9", "9", "3", "12"])
