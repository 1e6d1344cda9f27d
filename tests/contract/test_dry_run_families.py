"""The measurements of ``--dry-run`` on a configuration of every family, shrunken as for the other contract tests."""

import pytest
from test_configs import ROOT, sample, shrunken

from densekit.engine import Trainer
from densekit.engine.dry_run import measure

FAMILIES = (
    "COCO-Detection/faster_rcnn_R_50_C4_1x",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x",
    "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x",
    "Misc/semantic_R_50_FPN_1x",
    "carafe/mask_rcnn_R_50_FPN_carafe_1x",
    "detr/detr_R_50",
    "detr/detr_R_18_streets_panoptic_boxes",
    "mask_scoring/mask_scoring_R_50_FPN_1x",
    "pointrend/implicit_pointrend_R_50_FPN_1x_coco",
    "upernet/upernet_R_50_ade20k",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_can_be_rehearsed(name, monkeypatch, tmp_path):
    cfg = shrunken(ROOT / "configs" / f"{name}.yaml")
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.freeze()

    def endless():
        while True:
            yield [sample(cfg), sample(cfg)]

    monkeypatch.setattr(Trainer, "build_train_loader", classmethod(lambda cls, cfg: endless()))
    needs = measure(cfg)
    assert needs.losses and needs.images[0] == 2
    assert 1.5 < needs.step_flops / (2 * needs.forward_flops) < 4
    assert needs.weights > 0 and needs.optimizer > 0 and 0 < needs.gradients <= needs.weights
    assert sum(total for total, _ in needs.parameters.values()) * 4 <= needs.weights
    assert not (tmp_path / "out").exists()
