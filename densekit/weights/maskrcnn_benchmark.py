"""Weights of maskrcnn-benchmark's Faster and Mask R-CNN on ResNet and FPN.

That code base counts the background as class 0; here it is the last class of the scores and has neither boxes nor
masks. Its frozen norms add nothing to the variance; the amount that densekit adds is taken off the stored variances. It
sees BGR images of mean [102.9801, 115.9465, 122.7717].
"""

import torch

from densekit.weights.parts import Part, Slot, Vocabulary, register_part, register_vocabulary
from densekit.weights.renaming import RESNET_SIGN, Rule

NAME = "maskrcnn-benchmark"
_NORM_EPS = 1e-5  # of FrozenBatchNorm2d

register_vocabulary(
    Vocabulary(
        NAME,
        {
            "backbone": Slot(r"backbone\.body\.", "backbone.bottom_up.", optional=False),
            "fpn": Slot(r"backbone\.fpn\.", "backbone."),
            "rpn": Slot(r"rpn\.", "proposal_generator.rpn_head."),
            "box": Slot(r"roi_heads\.box\.", "roi_heads."),
            "mask": Slot(r"roi_heads\.mask\.", "roi_heads.mask_head."),
            "maskiou": Slot(r"roi_heads\.maskiou\.", "roi_heads.maskiou_head."),
        },
    )
)


def without_background(name: str, value: torch.Tensor) -> torch.Tensor:
    """Takes off the first row, the background's, of a head's last layer."""
    return value[1:]


def _variances(name: str, value: torch.Tensor) -> torch.Tensor:
    return value - _NORM_EPS if name.endswith(".running_var") else value


def _box_classes(name: str, value: torch.Tensor) -> torch.Tensor:
    if name.startswith("box_predictor.cls_score."):
        return value.roll(-1, dims=0)
    return value[4:] if name.startswith("box_predictor.bbox_pred.") else value


def _mask_classes(name: str, value: torch.Tensor) -> torch.Tensor:
    return without_background(name, value) if name.startswith("predictor.") else value


_RESNET: list[Rule] = [(r"stem\.conv1\.(.+)", r"stem.conv1.\1"), (r"stem\.bn1\.(.+)", r"stem.conv1.norm.\1")]
_PYRAMID: list[Rule] = []
for k in range(1, 5):  # its layer1 is res2, and its lateral connection is that of p2
    old, new = rf"layer{k}\.(\d+)\.", rf"res{k + 1}.\1."
    _RESNET += [
        (old + r"conv(\d)\.(.+)", new + r"conv\2.\3"),
        (old + r"bn(\d)\.(.+)", new + r"conv\2.norm.\3"),
        (old + r"downsample\.0\.(.+)", new + r"shortcut.\2"),
        (old + r"downsample\.1\.(.+)", new + r"shortcut.norm.\2"),
    ]
    _PYRAMID += [
        (rf"fpn_inner{k}\.(.+)", rf"fpn_lateral{k + 1}.\1"),
        (rf"fpn_layer{k}\.(.+)", rf"fpn_output{k + 1}.\1"),
    ]
register_part(Part("ResNet", (NAME,), "backbone", (r"stem\.conv1\.weight", RESNET_SIGN), _RESNET, _variances))
register_part(Part("FPN", (NAME,), "fpn", (r"fpn_inner1\.weight",), _PYRAMID))
register_part(
    Part(
        "RPN",
        (NAME,),
        "rpn",
        (r"head\.conv\.weight",),
        [
            (r"anchor_generator\.cell_anchors\.\d+", None),  # made anew from the configuration
            (r"head\.conv\.(.+)", r"conv.\1"),
            (r"head\.cls_logits\.(.+)", r"objectness_logits.\1"),
            (r"head\.bbox_pred\.(.+)", r"anchor_deltas.\1"),
        ],
    )
)
register_part(
    Part(
        "box head",
        (NAME,),
        "box",
        (r"predictor\.cls_score\.weight",),
        [
            (r"feature_extractor\.fc6\.(.+)", r"box_head.fc1.\1"),
            (r"feature_extractor\.fc7\.(.+)", r"box_head.fc2.\1"),
            (r"predictor\.(cls_score|bbox_pred)\.(.+)", r"box_predictor.\1.\2"),
        ],
        _box_classes,
    )
)
register_part(
    Part(
        "mask head",
        (NAME,),
        "mask",
        (r"predictor\.conv5_mask\.weight",),
        [
            (r"feature_extractor\.(mask_fcn\d)\.(.+)", r"\1.\2"),
            (r"predictor\.conv5_mask\.(.+)", r"deconv.\1"),
            (r"predictor\.mask_fcn_logits\.(.+)", r"predictor.\1"),
        ],
        _mask_classes,
    )
)
