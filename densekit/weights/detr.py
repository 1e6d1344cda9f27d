"""Checkpoints of DETR (arXiv 2005.12872): the authors', their panoptic ones, and those of their Detectron2 wrapper.

Two things differ between them beside the names. The authors' class scores have a row for every raw COCO id, used or
not (91 for boxes, 250 for panoptic), and one for "no object"; models on contiguous classes take the rows of the ids
that exist. And a model with a mask head nests the detector once more, so that a detector alone fits below it, too.
"""

import logging
from collections.abc import Collection

import torch

from densekit.weights.renaming import Layout, Rule, Weights, rename

_NESTED = "detr."
_SIGN = "transformer.decoder.layers.0.multihead_attn.in_proj_weight"
_HEAD = "mask_head.lay1.weight"

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


def _rules(prefix: str) -> list[Rule]:
    """The rules of every part of a detector; what they match may be nested, and they nest it under ``prefix``."""
    detector = rf"{prefix}\1"
    linear = r"\.(?:weight|bias)"
    parts = (
        rf"transformer\.(?:encoder|decoder)\.layers\.\d+\.(?:self_attn|multihead_attn)\.(?:in_proj_(?:weight|bias)|out_proj{linear})",
        rf"transformer\.(?:encoder|decoder)\.layers\.\d+\.(?:linear[12]|norm[123]){linear}",
        rf"transformer\.(?:encoder|decoder)\.norm{linear}",
        rf"(?:class_embed|bbox_embed\.layers\.[012]|input_proj){linear}",
        r"query_embed\.weight",
        r"backbone\.1\.(?:row|col)_embed\.weight",
        rf"selection\.(?:class_embed|bbox_embed\.layers\.[012]|place\.[02]){linear}",  # not the authors'
        r"backbone\.0\.backbone\..+",  # the wrapper's, and those of any backbone trained here
    )
    body, ours = r"(?:detr\.)*backbone\.0\.body\.", f"{prefix}backbone.0.backbone."
    rules: list[Rule] = [(rf"(?:detr\.)*({part})", detector) for part in parts]
    rules += [
        (rf"{body}conv1\.weight", f"{ours}stem.conv1.weight"),
        (rf"{body}bn1\.(.+)", rf"{ours}stem.conv1.norm.\1"),
    ]
    for stage in range(1, 5):
        block = rf"{body}layer{stage}\.(\d+)\."
        target = rf"{ours}res{stage + 1}.\1."
        rules += [
            (rf"{block}conv(\d)\.weight", rf"{target}conv\2.weight"),
            (rf"{block}bn(\d)\.(.+)", rf"{target}conv\2.norm.\3"),
            (rf"{block}downsample\.0\.weight", rf"{target}shortcut.weight"),
            (rf"{block}downsample\.1\.(.+)", rf"{target}shortcut.norm.\2"),
        ]
    # Class weights of the loss: they follow from the config.
    rules.append((r"criterion\.empty_weight", None))
    heads = rf"bbox_attention\.[qk]_linear{linear}|mask_head\.(?:lay[1-5]|gn[1-5]|out_lay|adapter[1-3]){linear}"
    return [*rules, (rf"(?:detr\.)?({heads})", rf"{_NESTED}\1")]


def _matches(names: Collection[str]) -> bool:
    return any(prefix + _SIGN in names for prefix in ("", _NESTED, 2 * _NESTED))


def _convert(weights: Weights) -> Weights:
    """To the wrapper's names, which are densekit's: ``detr.``, with a mask head ``detr.detr.``."""
    with_masks = _HEAD in weights or _NESTED + _HEAD in weights
    return rename(weights, _rules((2 if with_masks else 1) * _NESTED), "DETR")


def _fit(weights: Weights, model: Weights) -> Weights:
    """Nests a detector where the model has a mask head, picks class rows, and keeps the model's class weights."""
    names = set(model)
    if 2 * _NESTED + _SIGN in names and _NESTED + _SIGN in weights:
        weights = {_NESTED + name: value for name, value in weights.items()}
    for name in [name for name in weights if name.endswith("class_embed.weight") or name.endswith("class_embed.bias")]:
        weights[name] = _class_rows(weights[name], model.get(name), name)
    return weights | {name: value for name, value in model.items() if name.endswith("criterion.empty_weight")}


def _class_rows(value: torch.Tensor, wanted: torch.Tensor | None, name: str) -> torch.Tensor:
    rows = None if wanted is None else _CLASS_ROWS.get((len(value), len(wanted)))
    if rows is None:
        return value
    logging.getLogger(__name__).info(f"{name}: of {len(value)} rows by raw COCO id, {len(rows)} are taken.")
    return value[rows]


DETR = Layout("DETR", _matches, _convert, _fit)
