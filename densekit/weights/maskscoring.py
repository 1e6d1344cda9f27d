"""Weights of Mask Scoring R-CNN's authors, who built on maskrcnn-benchmark (Mask R-CNN of the same code loads too).

That code base counts the background as class 0; here it is the last class of the scores and has neither boxes nor
masks. Its frozen norms add nothing to the variance; the amount that densekit adds is taken off the stored variances. It
sees BGR images of mean [102.9801, 115.9465, 122.7717]; ``configs/mask_scoring`` has the settings.
"""

from collections.abc import Collection

import torch

from densekit.weights.renaming import Layout, Rule, Weights, rename

_NORM_EPS = 1e-5  # of FrozenBatchNorm2d

_RESNET: list[Rule] = [(r"backbone\.body\.stem\.conv1\.(.+)", r"backbone.bottom_up.stem.conv1.\1")]
_RESNET += [(r"backbone\.body\.stem\.bn1\.(.+)", r"backbone.bottom_up.stem.conv1.norm.\1")]
for k in range(1, 5):  # the authors' layer1 is res2, and its lateral connection is that of p2
    old, new = rf"backbone\.body\.layer{k}\.(\d+)\.", rf"backbone.bottom_up.res{k + 1}.\1."
    _RESNET += [
        (old + r"conv(\d)\.(.+)", new + r"conv\2.\3"),
        (old + r"bn(\d)\.(.+)", new + r"conv\2.norm.\3"),
        (old + r"downsample\.0\.(.+)", new + r"shortcut.\2"),
        (old + r"downsample\.1\.(.+)", new + r"shortcut.norm.\2"),
        (rf"backbone\.fpn\.fpn_inner{k}\.(.+)", rf"backbone.fpn_lateral{k + 1}.\1"),
        (rf"backbone\.fpn\.fpn_layer{k}\.(.+)", rf"backbone.fpn_output{k + 1}.\1"),
    ]
_HEADS: list[Rule] = [
    (r"rpn\.anchor_generator\.cell_anchors\.\d+", None),  # made anew from the configuration
    (r"rpn\.head\.conv\.(.+)", r"proposal_generator.rpn_head.conv.\1"),
    (r"rpn\.head\.cls_logits\.(.+)", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (r"rpn\.head\.bbox_pred\.(.+)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (r"roi_heads\.box\.feature_extractor\.fc6\.(.+)", r"roi_heads.box_head.fc1.\1"),
    (r"roi_heads\.box\.feature_extractor\.fc7\.(.+)", r"roi_heads.box_head.fc2.\1"),
    (r"roi_heads\.box\.predictor\.(cls_score|bbox_pred)\.(.+)", r"roi_heads.box_predictor.\1.\2"),
    (r"roi_heads\.mask\.feature_extractor\.(mask_fcn\d)\.(.+)", r"roi_heads.mask_head.\1.\2"),
    (r"roi_heads\.mask\.predictor\.conv5_mask\.(.+)", r"roi_heads.mask_head.deconv.\1"),
    (r"roi_heads\.mask\.predictor\.mask_fcn_logits\.(.+)", r"roi_heads.mask_head.predictor.\1"),
    (r"roi_heads\.maskiou\.feature_extractor\.(maskiou_f\w+\d)\.(.+)", r"roi_heads.maskiou_head.\1.\2"),
    (r"roi_heads\.maskiou\.predictor\.maskiou\.(.+)", r"roi_heads.maskiou_head.maskiou.\1"),
]
# Entries with rows for the background, and how many rows it has.
_WITHOUT_BACKGROUND = {
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_head.predictor": 1,
    "roi_heads.maskiou_head.maskiou": 1,
}


def _matches(names: Collection[str]) -> bool:
    return "backbone.body.stem.conv1.weight" in names


def _convert(weights: Weights) -> Weights:
    return {
        name: _adapt(name, value) for name, value in rename(weights, [*_RESNET, *_HEADS], MASK_SCORING.name).items()
    }


def _adapt(name: str, value: torch.Tensor) -> torch.Tensor:
    if name.endswith(".running_var"):
        return value - _NORM_EPS
    layer = name.rpartition(".")[0]
    if layer == "roi_heads.box_predictor.cls_score":
        return value.roll(-1, dims=0)
    return value[_WITHOUT_BACKGROUND.get(layer, 0) :]


MASK_SCORING = Layout("maskrcnn-benchmark", _matches, _convert)
