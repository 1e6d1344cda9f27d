"""Weights of OpenMMLab's detectors and segmentation models (mmdetection 2.0, mmsegmentation 0.11, and later).

The numbers need no change: the background is the last class, as here, box deltas have the same scales, and the first
linear layer reads its regions channel by channel. What the names do not tell is how the images are to be prepared.
Checkpoints of style "pytorch" want RGB in units of the deviation and the stride in the 3x3 convolution, which is
``configs/_base_/models/R_50_torchvision.yaml``; those of style "caffe" BGR and the stride in the 1x1, ``R_50.yaml``.

A backbone is below ``backbone.bottom_up.`` where a neck is above it, and else ``backbone.``.
"""

from collections.abc import Collection

from densekit.weights.parts import Part, Slot, Vocabulary, register_part, register_vocabulary
from densekit.weights.renaming import RESNET_SIGN, Rule, resnet_rules

DETECTORS, SEGMENTORS = "mmdetection", "mmsegmentation"


def _backbone_place(entries: Collection[str], slots: Collection[str], model: Collection[str] | None) -> str:
    return "backbone.bottom_up." if "neck" in slots else "backbone."


register_vocabulary(
    Vocabulary(
        DETECTORS,
        {
            "backbone": Slot(r"backbone\.", _backbone_place),
            "neck": Slot(r"neck\.", "backbone."),
            "rpn_head": Slot(r"rpn_head\.", "proposal_generator.rpn_head.", optional=False),
            "bbox_head": Slot(r"roi_head\.bbox_head\.", "roi_heads."),
            "mask_head": Slot(r"roi_head\.mask_head\.", "roi_heads.mask_head."),
            "mask_iou_head": Slot(r"roi_head\.mask_iou_head\.", "roi_heads.maskiou_head."),
        },
    )
)
register_vocabulary(
    Vocabulary(
        SEGMENTORS,
        {
            "backbone": Slot(r"backbone\.", _backbone_place),
            "neck": Slot(r"neck\.", "backbone."),
            "decode_head": Slot(r"decode_head\.", "sem_seg_head.", optional=False),
            "auxiliary_head": Slot(r"auxiliary_head\.", "sem_seg_head.auxiliary."),
        },
        ignored=(r".+\.num_batches_tracked",),
    )
)

register_part(Part("ResNet", (DETECTORS, SEGMENTORS), "backbone", (RESNET_SIGN,), resnet_rules()))

_PYRAMID: list[Rule] = []
for k in range(5):  # the first level is p2
    _PYRAMID += [
        (rf"lateral_convs\.{k}\.conv\.(\w+)", rf"fpn_lateral{k + 2}.\1"),
        (rf"fpn_convs\.{k}\.conv\.(\w+)", rf"fpn_output{k + 2}.\1"),
    ]
register_part(Part("FPN", (DETECTORS, SEGMENTORS), "neck", (r"lateral_convs\.0\.conv\.weight",), _PYRAMID))

register_part(
    Part(
        "RPN",
        (DETECTORS,),
        "rpn_head",
        (r"rpn_conv\.weight",),
        [
            (r"rpn_conv\.(\w+)", r"conv.\1"),
            (r"rpn_cls\.(\w+)", r"objectness_logits.\1"),
            (r"rpn_reg\.(\w+)", r"anchor_deltas.\1"),
        ],
    )
)
register_part(
    Part(
        "box head",
        (DETECTORS,),
        "bbox_head",
        (r"fc_cls\.weight", r"shared_fcs\.0\.weight"),
        [
            (r"fc_cls\.(\w+)", r"box_predictor.cls_score.\1"),
            (r"fc_reg\.(\w+)", r"box_predictor.bbox_pred.\1"),
            *[(rf"shared_fcs\.{k}\.(\w+)", rf"box_head.fc{k + 1}.\1") for k in range(4)],
        ],
    )
)
register_part(
    Part(
        "mask head",
        (DETECTORS,),
        "mask_head",
        (r"conv_logits\.weight",),
        [
            (r"upsample\.(weight|bias)", r"deconv.\1"),
            (r"conv_logits\.(\w+)", r"predictor.\1"),
            *[(rf"convs\.{k}\.conv\.(\w+)", rf"mask_fcn{k + 1}.\1") for k in range(8)],
        ],
    )
)
# Cascade R-CNN: three box heads. Its three mask heads, whose scores mmdetection averages, have one counterpart, on the
# last boxes: the last one.
register_part(
    Part(
        "cascade of box heads",
        (DETECTORS,),
        "bbox_head",
        (r"2\.fc_cls\.weight", r"2\.shared_fcs\.0\.weight"),
        [
            (r"(\d)\.fc_cls\.(\w+)", r"box_predictor.\1.cls_score.\2"),
            (r"(\d)\.fc_reg\.(\w+)", r"box_predictor.\1.bbox_pred.\2"),
            *[(rf"(\d)\.shared_fcs\.{k}\.(\w+)", rf"box_head.\1.fc{k + 1}.\2") for k in range(4)],
            *[(rf"(\d)\.shared_convs\.{k}\.conv\.(\w+)", rf"box_head.\1.conv{k + 1}.\2") for k in range(4)],
            *[(rf"(\d)\.shared_convs\.{k}\.bn\.(\w+)", rf"box_head.\1.conv{k + 1}.norm.\2") for k in range(4)],
        ],
    )
)
register_part(
    Part(
        "cascade of mask heads",
        (DETECTORS,),
        "mask_head",
        (r"2\.conv_logits\.weight",),
        [
            (r"[01]\..+", None),
            (r"2\.upsample\.(weight|bias)", r"deconv.\1"),
            (r"2\.conv_logits\.(\w+)", r"predictor.\1"),
            *[(rf"2\.convs\.{k}\.conv\.(\w+)", rf"mask_fcn{k + 1}.\1") for k in range(8)],
        ],
    )
)
# mmsegmentation's FCNHead, the usual auxiliary head: convolutions with a norm each, and a classifier.
register_part(
    Part(
        "FCN head",
        (SEGMENTORS,),
        "auxiliary_head",
        (r"conv_seg\.weight",),
        [
            (r"convs\.(\d)\.conv\.(\w+)", r"convs.\1.\2"),
            (r"convs\.(\d)\.bn\.(\w+)", r"convs.\1.norm.\2"),
            (r"conv_seg\.(\w+)", r"predictor.\1"),
        ],
    )
)
