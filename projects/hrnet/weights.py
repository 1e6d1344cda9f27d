"""The names in HRNet's published checkpoints, by part.

The network has the same names everywhere: the authors' files for ImageNet, Cityscapes, COCO and pose, timm's and
mmdetection's. The authors' segmenters may carry ``model.`` in front of every name, and the loss beside. Their detectors
are of mmdetection 0.6: the background is the first class there, and has box deltas of its own.
"""

from collections.abc import Collection

import torch

from densekit.weights import classifiers
from densekit.weights.openmmlab import DETECTORS
from densekit.weights.parts import Part, Slot, Vocabulary, register_part, register_vocabulary, wherever_it_is
from densekit.weights.pixels import IMAGENET_RGB
from densekit.weights.renaming import Rule, Weights

SEGMENTERS = "HRNet's segmentation code"  # OCR's head is a part of it too
OLD_DETECTORS = "HRNet's detection code"
POSE = "HRNet's pose code"

NETWORK: list[Rule] = [(r"((?:conv[12]|bn[12]|layer1|transition[123]|stage[234])\..+)", r"network.\1")]
CLASSIFIER: list[Rule] = [(r"(?:incre_modules|downsamp_modules|final_layer\.[01]|classifier)\..+", None)]
HEAD: list[Rule] = [(r"(last_layer\..+)", r"\1")]
PYRAMID: list[Rule] = [
    (r"reduction_conv\.(?:0|conv)\.(\w+)", r"pyramid.reduction.\1"),
    (r"fpn_convs?\.(\d)\.(?:conv\.)?(\w+)", r"pyramid.outputs.\1.\2"),
]
_SIGN = r"stage4\.0\.branches\.0\.0\.conv1\.weight"
_FLAVOUR = "sem_seg_head.flavour.value"


def _kept_counters(weights: Weights, model: Weights) -> Weights:
    """Leaves out the counters of batches that the model does not have, whose norms are constants."""
    return {name: x for name, x in weights.items() if name in model or not name.endswith("num_batches_tracked")}


def _with_flavour(weights: Weights, model: Weights) -> Weights:
    """Adds how a segmenter of the authors enlarges maps.

    Files of torch 0.4, whose norms count no batches, are trained with aligned corners, those after it for HRNetV2's
    head without. Nothing in the files of OCR tells.
    """
    if _FLAVOUR not in model or "sem_seg_head.last_layer.0.weight" not in weights:
        return weights
    aligned = not any(name.startswith("sem_seg_head.") and name.endswith("num_batches_tracked") for name in weights)
    return weights | {_FLAVOUR: torch.tensor(int(aligned), dtype=torch.uint8)}


def background_last(name: str, value: torch.Tensor) -> torch.Tensor:
    """Puts the background behind the other classes, and takes its box deltas and its mask away, as the host has it."""
    if ".cls_score." in name:
        return torch.cat([value[1:], value[:1]])
    if ".bbox_pred." in name and len(value) > 4:  # 4 are those of all classes together
        return value[4:]
    if name.startswith("predictor.") and len(value) > 1:
        return value[1:]
    return value


def _below_pyramid(entries: Collection[str], slots: Collection[str], model: Collection[str] | None) -> str:
    return "backbone.bottom_up." if "neck" in slots else "backbone."


_BACKBONE = Slot(r"(?:model\.)?", wherever_it_is("backbone."))
register_vocabulary(
    Vocabulary(
        SEGMENTERS,
        {"head": Slot(r"(?:model\.)?", "sem_seg_head.", optional=False), "backbone": _BACKBONE},
        ignored=(r"loss\..+",),
        fit=_with_flavour,
    )
)
register_vocabulary(
    Vocabulary(
        OLD_DETECTORS,
        {
            "backbone": Slot(r"backbone\.", _below_pyramid),
            "neck": Slot(r"neck\.", "backbone.", optional=False),
            "rpn_head": Slot(r"rpn_head\.", "proposal_generator.rpn_head."),
            "bbox_head": Slot(r"bbox_head\.", "roi_heads."),
            "mask_head": Slot(r"mask_head\.", "roi_heads.mask_head."),
        },
    )
)
register_part(
    Part(
        "HRNet",
        (classifiers.NAME,),
        "backbone",
        (_SIGN,),
        [*CLASSIFIER, *NETWORK],
        pixels=IMAGENET_RGB,
    )
)
register_part(
    Part(
        "HRNet",
        (classifiers.NAME,),
        "neck",
        (_SIGN, r"final_layer\.0\.weight"),
        [(r"((?:incre_modules|downsamp_modules|final_layer)\..+)", r"neck.\1")],
    )
)
register_part(
    Part(
        "HRNet",
        (classifiers.NAME,),
        "classifier",
        (_SIGN, r"classifier\.weight"),
        [(r"classifier\.(weight|bias)", r"\1")],
    )
)
register_part(
    Part(
        "HRNet",
        (SEGMENTERS, OLD_DETECTORS, POSE, DETECTORS),
        "backbone",
        (_SIGN,),
        NETWORK,
        fit=_kept_counters,
        pixels=IMAGENET_RGB,
    )
)
register_part(Part("HRNetV2 head", (SEGMENTERS,), "head", (r"last_layer\.0\.weight",), HEAD, fit=_kept_counters))
register_part(Part("HRFPN", (OLD_DETECTORS, DETECTORS), "neck", (r"reduction_conv\.(?:0|conv)\.weight",), PYRAMID))
register_part(
    Part(
        "RPN",
        (OLD_DETECTORS,),
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
        (OLD_DETECTORS,),
        "bbox_head",
        (r"(?:\d\.)?fc_cls\.weight",),
        [
            (r"fc_cls\.(\w+)", r"box_predictor.cls_score.\1"),
            (r"fc_reg\.(\w+)", r"box_predictor.bbox_pred.\1"),
            (r"(\d)\.fc_cls\.(\w+)", r"box_predictor.\1.cls_score.\2"),  # of a cascade
            (r"(\d)\.fc_reg\.(\w+)", r"box_predictor.\1.bbox_pred.\2"),
            *[(rf"shared_fcs\.{k}\.(\w+)", rf"box_head.fc{k + 1}.\1") for k in range(2)],
            *[(rf"(\d)\.shared_fcs\.{k}\.(\w+)", rf"box_head.\1.fc{k + 1}.\2") for k in range(2)],
        ],
        background_last,
    )
)
register_part(
    Part(
        "mask head",
        (OLD_DETECTORS,),
        "mask_head",
        (r"conv_logits\.weight",),
        [
            (r"upsample\.(\w+)", r"deconv.\1"),
            (r"conv_logits\.(\w+)", r"predictor.\1"),
            *[(rf"convs\.{k}\.conv\.(\w+)", rf"mask_fcn{k + 1}.\1") for k in range(4)],
        ],
        background_last,
    )
)
