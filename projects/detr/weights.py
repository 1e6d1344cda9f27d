"""Checkpoints of DETR (arXiv 2005.12872): the authors', their panoptic ones, and those of their Detectron2 wrapper.

Two things differ between them beside the names. The authors' class scores have a row for every raw COCO id, used or
not (91 for boxes, 250 for panoptic), and one for "no object"; models on contiguous classes take the rows of the ids
that exist. And a model with a mask head nests the detector once more, so that a detector alone fits below it, too.
"""

import logging
from collections.abc import Collection

import torch

from densekit.weights.parts import Part, Slot, Vocabulary, register_part, register_vocabulary
from densekit.weights.renaming import RESNET_SIGN, Weights, resnet_rules

_NAME = "DETR"
_NESTED = "detr."
_EMPTY_WEIGHT = "criterion.empty_weight"  # class weights of the loss: they follow from the config

# Raw ids that COCO's 80 things and 53 kinds of stuff leave out.
_NO_THINGS = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_NO_STUFF = {91, 94, 96, 97, 98, 99, 101, 102, 103, 104, 105, 106, 108, 110, 111, 113, 114, 115, 116, 117, 120, 121}
_NO_STUFF |= {123, 124, 126, 127, 129, 131, 132, 134, 135, 136, 137, 139, 140, 142, 143, 146, 150, 152, 153, 157, 158}
_NO_STUFF |= {160, 162, 163, 164, 165, 167, 169, 170, 172, 173, 174, 179, 182, 183}
_THING_ROWS = [row for row in range(91) if row not in _NO_THINGS]
_STUFF_ROWS = [row for row in range(91, 201) if row not in _NO_STUFF]
# (rows in the file, rows in the model) -> the rows to take; the last is "no object".
_CLASS_ROWS = {
    (92, 81): [*_THING_ROWS, 91],
    (251, 134): [*_THING_ROWS, *_STUFF_ROWS, 250],
}


def _detector_place(entries: Collection[str], slots: Collection[str], model: Collection[str] | None) -> str:
    """The wrapper's names, which are densekit's: ``detr.``, with a mask head ``detr.detr.``."""
    nested = "mask_head" in slots if model is None else any(name.startswith(2 * _NESTED) for name in model)
    return (2 if nested else 1) * _NESTED


def _backbone_place(entries: Collection[str], slots: Collection[str], model: Collection[str] | None) -> str:
    return _detector_place(entries, slots, model) + "backbone.0.backbone."


def _with_class_weights(weights: Weights, model: Weights) -> Weights:
    """Keeps the model's class weights."""
    return weights | {name: value for name, value in model.items() if name == _EMPTY_WEIGHT}


def _fit_classes(weights: Weights, model: Weights) -> Weights:
    """Picks the rows of classes that the model has."""
    return {
        name: _class_rows(value, model.get(name), name) if "class_embed." in name else value
        for name, value in weights.items()
    }


def _class_rows(value: torch.Tensor, wanted: torch.Tensor | None, name: str) -> torch.Tensor:
    rows = None if wanted is None else _CLASS_ROWS.get((len(value), len(wanted)))
    if rows is None:
        return value
    logging.getLogger(__name__).info(f"{name}: of {len(value)} rows by raw COCO id, {len(rows)} are taken.")
    return value[rows]


register_vocabulary(
    Vocabulary(
        _NAME,
        {
            "backbone": Slot(r"(?:detr\.)*backbone\.0\.body\.", _backbone_place),
            "detector": Slot(r"(?:detr\.)*", _detector_place, optional=False),
            "mask_head": Slot(r"(?:detr\.)?", _NESTED),
        },
        ignored=(_EMPTY_WEIGHT.replace(".", r"\."),),
        fit=_with_class_weights,
    )
)

_LINEAR = r"\.(?:weight|bias)"
_LAYERS = r"transformer\.(?:encoder|decoder)\.layers\.\d+\."
_PARTS = (
    rf"{_LAYERS}(?:self_attn|multihead_attn)\.(?:in_proj_(?:weight|bias)|out_proj{_LINEAR})",
    rf"{_LAYERS}(?:linear[12]|norm[123]){_LINEAR}",
    rf"transformer\.(?:encoder|decoder)\.norm{_LINEAR}",
    rf"(?:class_embed|bbox_embed\.layers\.[012]|input_proj){_LINEAR}",
    r"query_embed\.weight",
    r"backbone\.1\.(?:row|col)_embed\.weight",
    rf"selection\.(?:class_embed|bbox_embed\.layers\.[012]|place\.[02]){_LINEAR}",  # not the authors'
    r"backbone\.0\.backbone\..+",  # the wrapper's, and those of any backbone trained here
)
register_part(
    Part(
        "transformer",
        (_NAME,),
        "detector",
        (r"transformer\.decoder\.layers\.0\.multihead_attn\.in_proj_weight",),
        [(f"({part})", r"\1") for part in _PARTS],
        fit=_fit_classes,
    )
)
register_part(Part("ResNet", (_NAME,), "backbone", (RESNET_SIGN,), resnet_rules()))
register_part(
    Part(
        "mask head",
        (_NAME,),
        "mask_head",
        (r"mask_head\.lay1\.weight",),
        [
            (rf"(bbox_attention\.[qk]_linear{_LINEAR})", r"\1"),
            (rf"(mask_head\.(?:lay[1-5]|gn[1-5]|out_lay|adapter[1-3]){_LINEAR})", r"\1"),
        ],
    )
)
