"""Published weights of Mask Scoring R-CNN: all names become those of the model."""

import re

import torch

from tests.converting import assert_converts, assert_converts_renamed, torchvision_resnet


def mmdetections_mask_scoring(name: str) -> str:
    """mmdetection 2's Mask Scoring R-CNN: lists count from 0, and every head is below ``roi_head``."""
    if name.startswith("backbone.bottom_up."):
        return torchvision_resnet(name.replace("bottom_up.", ""))
    for ours, theirs in (
        (r"backbone\.fpn_lateral(\d)", r"neck.lateral_convs.{}.conv"),
        (r"backbone\.fpn_output(\d)", r"neck.fpn_convs.{}.conv"),
        (r"roi_heads\.box_head\.fc(\d)", r"roi_head.bbox_head.shared_fcs.{}"),
        (r"roi_heads\.mask_head\.mask_fcn(\d)", r"roi_head.mask_head.convs.{}.conv"),
        (r"roi_heads\.maskiou_head\.maskiou_fcn(\d)", r"roi_head.mask_iou_head.convs.{}"),
        (r"roi_heads\.maskiou_head\.maskiou_fc(\d)", r"roi_head.mask_iou_head.fcs.{}"),
    ):
        first = 2 if "fpn" in ours else 1
        name = re.sub(ours, lambda match, text=theirs, first=first: text.format(int(match[1]) - first), name)
    for ours, theirs in (
        ("proposal_generator.rpn_head.conv.", "rpn_head.rpn_conv."),
        ("proposal_generator.rpn_head.objectness_logits.", "rpn_head.rpn_cls."),
        ("proposal_generator.rpn_head.anchor_deltas.", "rpn_head.rpn_reg."),
        ("roi_heads.box_predictor.cls_score.", "roi_head.bbox_head.fc_cls."),
        ("roi_heads.box_predictor.bbox_pred.", "roi_head.bbox_head.fc_reg."),
        ("roi_heads.mask_head.deconv.", "roi_head.mask_head.upsample."),
        ("roi_heads.mask_head.predictor.", "roi_head.mask_head.conv_logits."),
        ("roi_heads.maskiou_head.maskiou.", "roi_head.mask_iou_head.fc_mask_iou."),
    ):
        name = name.replace(ours, theirs)
    return name


def test_authors_names(tmp_path, reference_dir, capsys):
    names = torch.load(reference_dir / "maskscoring.pt")["manifest"]
    config = "mask_scoring/mask_scoring_R_50_FPN_1x_authors.yaml"
    assert_converts(tmp_path, names, config, "maskrcnn-benchmark", capsys)


def test_mmdetections_names(tmp_path, capsys):
    config = "mask_scoring/mask_scoring_R_50_FPN_1x.yaml"
    assert_converts_renamed(tmp_path, mmdetections_mask_scoring, config, "mmdetection", capsys)
