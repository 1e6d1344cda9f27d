"""Poolers by key below the region heads of both hosts."""

import pytest
import torch

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import build_roi_heads
from densekit.d2.modeling.poolers import ROIPooler
from densekit.d2.structures import Boxes
from densekit.layers.roi_warp import RoIWarp
from tests.contract.shrinking import ROOT


def heads(name, *options):
    asked = ["MODEL.ROI_HEADS.NAME", "RegionPoolingHeads", "MODEL.REGION_POOLING.HEADS", name]
    asked += ["MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8, *options]
    cfg = load_config(str(ROOT / "configs/_base_/models/rcnn_tiny.yaml"), asked)
    names = cfg.MODEL.ROI_HEADS.IN_FEATURES
    channels = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS * 4 if name == "Res5ROIHeads" else 8
    return build_roi_heads(cfg, {key: ShapeSpec(channels=channels, stride=4 * 2**k) for k, key in enumerate(names)})


def kinds(module):
    """The classes of the operators of each pooler, by its name."""
    return {
        path: {type(level).__name__ for level in part.level_poolers}
        for path, part in module.named_modules()
        if isinstance(part, ROIPooler)
    }


@pytest.mark.parametrize("name", ["StandardROIHeads", "CascadeROIHeads", "MaskScoringROIHeads"])
def test_each_branch_has_the_pooler_of_its_key(name):
    own = ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]  # which a cascade needs
    found = kinds(heads(name, "MODEL.ROI_MASK_HEAD.POOLER_TYPE", "ROIWarp", *own))
    assert found == {"box_pooler": {"ROIAlign"}, "mask_pooler": {"RoIWarp"}}
    both = ["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIWarp", "MODEL.ROI_MASK_HEAD.POOLER_TYPE", "ROIPool"]
    assert kinds(heads(name, *both, *own)) == {"box_pooler": {"RoIWarp"}, "mask_pooler": {"RoIPool"}}


def test_heads_on_one_map():
    one_map = ["MODEL.ROI_HEADS.IN_FEATURES", ["res4"], "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIWarp"]
    assert kinds(heads("Res5ROIHeads", *one_map)) == {"pooler": {"RoIWarp"}}


def test_points_are_refined_on_regions_pooled_as_the_box_heads_are():
    options = ["MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead", "MODEL.ROI_MASK_HEAD.POOLER_TYPE", ""]
    options += ["MODEL.POINT_HEAD.COARSE_MASK_HEAD_NAME", "MaskRCNNConvUpsampleHead"]
    options += ["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIWarp"]
    found = kinds(heads("StandardROIHeads", *options))
    assert set(found) == {"box_pooler", "mask_head.coarse_pooler"} and set(map(frozenset, found.values())) == {
        frozenset({"RoIWarp"})
    }


def test_boxes_are_pooled_from_the_level_of_their_size():
    pooler = heads("StandardROIHeads", "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIWarp").box_pooler
    maps = [torch.randn(2, 8, 256 >> k, 256 >> k) for k in range(4)]
    boxes = torch.tensor([[8.0, 8.0, 60.0, 70.0], [100.0, 40.0, 900.0, 820.0]])
    found = pooler(maps, [Boxes(boxes), Boxes(boxes[1:])])
    for place, (level, image, box) in enumerate([(0, 0, boxes[0]), (3, 0, boxes[1]), (3, 1, boxes[1])]):
        single = RoIWarp((3, 3), 1 / (4 << level))(maps[level], torch.tensor([[image, *box.tolist()]]))
        assert torch.equal(found[place], single[0])


def test_weights_are_those_of_the_heads_themselves():
    plain = heads("StandardROIHeads")
    heads("StandardROIHeads", "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIWarp").load_state_dict(plain.state_dict())


def test_heads_that_name_themselves_are_refused():
    with pytest.raises(ValueError, match="itself"):
        heads("RegionPoolingHeads")
