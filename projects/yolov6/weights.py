"""Names of the published checkpoints, releases 0.1 to 0.4, by part. The weights keep the GPL-3.0 of their authors.

A checkpoint pickles a module of the authors' classes in half precision; ``densekit.weights`` reads its tensors without
these classes. Known are N, T, S, M and L as they are trained, of the paper and of the later releases, with their
variants. The later releases have a ``block`` around the convolution and the norm of a layer.
"""

import re

from densekit.weights.parts import Part, Slot, Vocabulary, register_part, register_vocabulary
from densekit.weights.renaming import Rule

NAME = "YOLOv6 (N, T, S, M or L as they are trained; not the lite, P6 and deployed forms)"

_NORM = "(weight|bias|running_mean|running_var|num_batches_tracked)"
CONV_NORM: list[Rule] = [
    (r"(?:block\.)?conv\.(weight|bias)", r"conv.\1"),
    (rf"(?:block\.)?bn\.{_NORM}", r"norm.\1"),
]
UNIT: list[Rule] = [
    (r"rbr_dense\.conv\.weight", "dense.conv.weight"),
    (rf"rbr_dense\.bn\.{_NORM}", r"dense.norm.\1"),
    (r"rbr_1x1\.conv\.weight", "point.conv.weight"),
    (rf"rbr_1x1\.bn\.{_NORM}", r"point.norm.\1"),
    (r"(?:rbr|conv)_1x1\.weight", "point.weight"),
    (rf"rbr_identity\.{_NORM}", r"identity.\1"),
    (r"scale_(conv|identity)\.weight", r"\1_scale"),
    (r"scale_1x1\.weight", "point_scale"),
    *CONV_NORM,
]
_TENSOR: list[Rule] = [(r"(weight|bias)", r"\1")]


def at(old: str, new: str, leaves: list[Rule]) -> list[Rule]:
    """Rules of leaves at a place: a pattern, and a template with its groups, which stand before the leaves'."""
    groups = re.compile(old).groups
    rules: list[Rule] = []
    for pattern, leaf in leaves:
        shifted = re.sub(r"\\(\d)", lambda match: rf"\{int(match[1]) + groups}", leaf or "")
        rules.append((old + pattern, new + shifted))
    return rules


def stage(old: str, new: str) -> list[Rule]:
    """Rules of a stage of any kind at a place; ``cv2`` of CSPStackRep is another layer than that of MBLA."""
    n = re.compile(old).groups
    a, b, c = (rf"\{n + k}" for k in (1, 2, 3))
    return [
        *at(rf"{old}conv1\.", f"{new}first.", UNIT),
        *at(rf"{old}block\.(\d+)\.", f"{new}rest.{a}.", UNIT),
        *at(rf"{old}m\.conv1\.conv(\d)\.", f"{new}stack.first.unit{a}.", UNIT),
        *at(rf"{old}m\.block\.(\d+)\.conv(\d)\.", f"{new}stack.rest.{a}.unit{b}.", UNIT),
        (rf"{old}m\.conv1\.alpha", f"{new}stack.first.alpha"),
        (rf"{old}m\.block\.(\d+)\.alpha", f"{new}stack.rest.{a}.alpha"),
        *at(rf"{old}m\.(\d+)\.(\d+)\.conv(\d)\.", f"{new}branches.{a}.{b}.unit{c}.", UNIT),
        (rf"{old}m\.(\d+)\.(\d+)\.alpha", f"{new}branches.{a}.{b}.alpha"),
        *at(rf"{old}cv1\.", f"{new}enter.", CONV_NORM),
        *at(rf"{old}cv3\.", f"{new}leave.", CONV_NORM),
    ]


_CSP_POOL = {"cv1": "before.0", "cv3": "before.1", "cv4": "before.2", "cv5": "after.0", "cv6": "after.1"}
_CSP_POOL |= {"cv2": "beside", "cv7": "leave"}
BODY: list[Rule] = [
    *at(r"stem\.", "stem.", UNIT),
    *at(r"ERBlock_([2-5])\.0\.", r"stages.\1.down.", UNIT),
    *stage(r"ERBlock_([2-5])\.1\.", r"stages.\1.body."),
    *at(r"ERBlock_5\.2\.(?:sppf\.)?cv1\.", "pool.enter.", CONV_NORM),
    *at(r"ERBlock_5\.2\.(?:sppf\.)?cv2\.", "pool.leave.", CONV_NORM),
    *(
        rule
        for theirs, ours in _CSP_POOL.items()
        for rule in at(rf"ERBlock_5\.2\.cspsppf\.{theirs}\.", f"pool.{ours}.", CONV_NORM)
    ),
]
_STAGES = {r"Rep_p4\.": "down.0.", r"Rep_p3\.": "down.1.", r"Rep_n3\.": "up.0.", r"Rep_n4\.": "up.1."}
_FUSION = {"cv1": "same", "cv2": "fine", "cv3": "leave", "downsample": "shrink"}
NECK: list[Rule] = [
    *at(r"reduce_layer([01])\.", r"reduce.\1.", CONV_NORM),
    *at(r"downsample2\.", "shrink.0.", CONV_NORM),
    *at(r"downsample1\.", "shrink.1.", CONV_NORM),
    *at(r"upsample([01])\.upsample_transpose\.", r"join.\1.", _TENSOR),
    *at(r"Bifusion([01])\.upsample\.upsample_transpose\.", r"join.\1.enlarge.", _TENSOR),
    *(
        rule
        for theirs, ours in _FUSION.items()
        for rule in at(rf"Bifusion([01])\.{theirs}\.", rf"join.\1.{ours}.", CONV_NORM)
    ),
    *(rule for theirs, ours in _STAGES.items() for rule in stage(theirs, ours)),
]
_LEVEL = {"stems": "stem", "cls_convs": "class_conv", "reg_convs": "box_conv"}
_PREDICTORS = {"cls_preds": "classes", "reg_preds": "boxes", "reg_preds_dist": "bins"}
_PREDICTORS |= {"cls_preds_ab": "anchor_classes", "reg_preds_ab": "anchor_boxes"}
HEAD: list[Rule] = [
    (r"proj(?:_conv\.weight)?", None),  # the numbers of the bins
    *(
        rule
        for names, leaves in ((_LEVEL, CONV_NORM), (_PREDICTORS, _TENSOR))
        for theirs, ours in names.items()
        for rule in at(rf"{theirs}\.([0-2])\.", rf"levels.\1.{ours}.", leaves)
    ),
]

register_vocabulary(
    Vocabulary(
        NAME,
        {
            "backbone": Slot(r"backbone\.", "backbone.bottom_up."),
            "neck": Slot(r"neck\.", "backbone.neck."),
            "head": Slot(r"detect\.", "head.", optional=False),
        },
    )
)
register_part(Part("decoupled head", (NAME,), "head", (r"(?:stems|cls_preds)\.0\..+",), HEAD))


def _register(name: str, slot: str, sign: str, rules: list[Rule], beside: str) -> None:
    """A part of three kinds of stages, which differ in what their second convolution is."""
    places = {r"ERBlock_([2-5])\.1\.": r"stages.\1.body."} if slot == "backbone" else _STAGES
    second = [rule for old, new in places.items() for rule in at(rf"{old}cv2\.", f"{new}{beside}.", CONV_NORM)]
    register_part(Part(name, (NAME,), slot, (sign,), [*rules, *second]))


for _slot, _rules, _place in (("backbone", BODY, r"ERBlock_2\.1\."), ("neck", NECK, r"Rep_p4\.")):
    _register("stages of units", _slot, rf"{_place}conv1\..+", _rules, "beside")
    _register("CSP stages", _slot, rf"{_place}m\.conv1\..+", _rules, "beside")
    _register("stages of several branches", _slot, rf"{_place}m\.0\.0\..+", _rules, "leave")
