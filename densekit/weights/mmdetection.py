"""Weights of mmdetection's Faster and Mask R-CNN (2.0 and later) on ResNet and FPN, with CARAFE and mask scoring.

The numbers need no change: the background is the last class, as here, box deltas have the same scales, and the first
linear layer reads its regions channel by channel. What the names do not tell is how the images are to be prepared.
Checkpoints of style "pytorch" want RGB in units of the deviation and the stride in the 3x3 convolution, which is
``configs/_base_/models/R_50_torchvision.yaml``; those of style "caffe" BGR and the stride in the 1x1, ``R_50.yaml``.
"""

from collections.abc import Collection

from densekit.weights.renaming import Layout, Rule, Weights, rename


def resnet_rules(target: str, source: str = r"backbone\.") -> list[Rule]:
    """Rules for a ResNet in OpenMMLab's names, or torchvision's, which goes to ``target``.

    Args:
        target: Where it is in densekit's model.
        source: Pattern of what its names begin with.
    """
    rules: list[Rule] = [
        (source + r".+\.num_batches_tracked", None),
        (source + r"conv(\d)\.weight", rf"{target}.stem.conv\1.weight"),
        (source + r"bn(\d)\.(\w+)", rf"{target}.stem.conv\1.norm.\2"),
    ]
    for k in range(3):  # ResNetV1c: convolution, norm and ReLU, three times in one list
        rules += [
            (source + rf"stem\.{3 * k}\.weight", rf"{target}.stem.conv{k + 1}.weight"),
            (source + rf"stem\.{3 * k + 1}\.(\w+)", rf"{target}.stem.conv{k + 1}.norm.\1"),
        ]
    for k in range(1, 5):  # layer1 is res2
        old, new = source + rf"layer{k}\.(\d+)\.", rf"{target}.res{k + 1}.\1."
        rules += [
            (old + r"conv(\d)\.weight", new + r"conv\2.weight"),
            (old + r"bn(\d)\.(\w+)", new + r"conv\2.norm.\3"),
            (old + r"downsample\.0\.weight", new + r"shortcut.weight"),
            (old + r"downsample\.1\.(\w+)", new + r"shortcut.norm.\2"),
        ]
    return rules


_NECK: list[Rule] = []
for k in range(5):  # the first level is p2, and upsample_modules.0 enlarges p3
    _NECK += [
        (rf"neck\.lateral_convs\.{k}\.conv\.(\w+)", rf"backbone.fpn_lateral{k + 2}.\1"),
        (rf"neck\.fpn_convs\.{k}\.conv\.(\w+)", rf"backbone.fpn_output{k + 2}.\1"),
        (rf"neck\.upsample_modules\.{k}\.(\w+\.\w+)", rf"backbone.fpn_upsample{k + 3}.\1"),
    ]
_HEADS: list[Rule] = [
    (r"rpn_head\.rpn_conv\.(\w+)", r"proposal_generator.rpn_head.conv.\1"),
    (r"rpn_head\.rpn_cls\.(\w+)", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (r"rpn_head\.rpn_reg\.(\w+)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (r"roi_head\.bbox_head\.fc_cls\.(\w+)", r"roi_heads.box_predictor.cls_score.\1"),
    (r"roi_head\.bbox_head\.fc_reg\.(\w+)", r"roi_heads.box_predictor.bbox_pred.\1"),
    (r"roi_head\.mask_head\.upsample\.(\w+\.\w+)", r"roi_heads.mask_head.upsample.\1"),
    (r"roi_head\.mask_head\.upsample\.(\w+)", r"roi_heads.mask_head.deconv.\1"),
    (r"roi_head\.mask_head\.conv_logits\.(\w+)", r"roi_heads.mask_head.predictor.\1"),
    (r"roi_head\.mask_iou_head\.fc_mask_iou\.(\w+)", r"roi_heads.maskiou_head.maskiou.\1"),
]
for k in range(4):
    _HEADS += [
        (rf"roi_head\.bbox_head\.shared_fcs\.{k}\.(\w+)", rf"roi_heads.box_head.fc{k + 1}.\1"),
        (rf"roi_head\.mask_head\.convs\.{k}\.conv\.(\w+)", rf"roi_heads.mask_head.mask_fcn{k + 1}.\1"),
        (rf"roi_head\.mask_iou_head\.convs\.{k}\.(\w+)", rf"roi_heads.maskiou_head.maskiou_fcn{k + 1}.\1"),
        (rf"roi_head\.mask_iou_head\.fcs\.{k}\.(\w+)", rf"roi_heads.maskiou_head.maskiou_fc{k + 1}.\1"),
    ]


def _matches(names: Collection[str]) -> bool:
    return "backbone.conv1.weight" in names and "rpn_head.rpn_conv.weight" in names


def _convert(weights: Weights) -> Weights:
    return rename(weights, [*resnet_rules("backbone.bottom_up"), *_NECK, *_HEADS], MMDETECTION.name)


MMDETECTION = Layout("mmdetection", _matches, _convert)
