"""Names of the published checkpoints, releases 0.1 to 0.4, by part. The weights keep the GPL-3.0 of their authors.

A checkpoint pickles a module of the authors' classes in half precision; ``densekit.weights`` reads its tensors without
these classes. Of the forms, N, T, S, M and L are known, of the paper and of the later releases, with their variants.

Names have two parts: the place in the network, and the tensor inside a convolution with its norm. Each is translated
by rules of its own, the place first, which is where a name that is not known is found.
"""

from collections.abc import Collection

from densekit.weights.renaming import Layout, Rule, Weights, rename

# A convolution with its norm; the later releases have a `block` around it.
_NORM = "weight|bias|running_mean|running_var|num_batches_tracked"
_CONV_NORM = rf"((?:block\.)?(?:conv\.(?:weight|bias)|bn\.(?:{_NORM})))"
# One of the units that networks are made of.
_UNIT = (
    rf"((?:block\.)?(?:conv\.(?:weight|bias)|bn\.(?:{_NORM}))"
    rf"|rbr_(?:dense|1x1)\.(?:conv\.weight|bn\.(?:{_NORM}))|rbr_1x1\.weight|rbr_identity\.(?:{_NORM})"
    r"|conv_1x1\.weight|scale_(?:conv|1x1|identity)\.weight)"
)

LEAVES: list[Rule] = [
    (r"(.+)\.rbr_dense\.conv\.weight", r"\1.dense.conv.weight"),
    (r"(.+)\.rbr_dense\.bn\.(\w+)", r"\1.dense.norm.\2"),
    (r"(.+)\.rbr_1x1\.conv\.weight", r"\1.point.conv.weight"),
    (r"(.+)\.rbr_1x1\.bn\.(\w+)", r"\1.point.norm.\2"),
    (r"(.+)\.(?:rbr|conv)_1x1\.weight", r"\1.point.weight"),
    (r"(.+)\.rbr_identity\.(\w+)", r"\1.identity.\2"),
    (r"(.+)\.scale_(?:1x1)\.weight", r"\1.point_scale"),
    (r"(.+)\.scale_(conv|identity)\.weight", r"\1.\2_scale"),
    (r"(.+?)(?:\.block)?\.conv\.(\w+)", r"\1.conv.\2"),
    (r"(.+?)(?:\.block)?\.bn\.(\w+)", r"\1.norm.\2"),
    (r"(.+)", r"\1"),
]


def _stage(old: str, new: str) -> list[Rule]:
    """Rules of a stage of any kind; the places are patterns and templates with at most one group."""
    group = old.replace(r"\.", "").count("(")
    new, (a, b, c, d) = new, (rf"\{group + k}" for k in (1, 2, 3, 4))
    return [
        # RepBlock
        (rf"{old}\.conv1\.{_UNIT}", rf"{new}.first.{a}"),
        (rf"{old}\.block\.(\d+)\.{_UNIT}", rf"{new}.rest.{a}.{b}"),
        # BepC3
        (rf"{old}\.m\.conv1\.alpha", rf"{new}.stack.first.alpha"),
        (rf"{old}\.m\.conv1\.conv(\d)\.{_UNIT}", rf"{new}.stack.first.unit{a}.{b}"),
        (rf"{old}\.m\.block\.(\d+)\.alpha", rf"{new}.stack.rest.{a}.alpha"),
        (rf"{old}\.m\.block\.(\d+)\.conv(\d)\.{_UNIT}", rf"{new}.stack.rest.{a}.unit{b}.{c}"),
        # MBLA
        (rf"{old}\.m\.(\d+)\.(\d+)\.alpha", rf"{new}.branches.{a}.{b}.alpha"),
        (rf"{old}\.m\.(\d+)\.(\d+)\.conv(\d)\.{_UNIT}", rf"{new}.branches.{a}.{b}.unit{c}.{d}"),
    ]


def _around(old: str, new: str, csp: bool) -> list[Rule]:
    """Rules of the 1x1 convolutions around a CSP stage, or around the branches of MBLA."""
    group = old.replace(r"\.", "").count("(")
    places = {"cv1": "enter", "cv2": "beside", "cv3": "leave"} if csp else {"cv1": "enter", "cv2": "leave"}
    return [(rf"{old}\.{theirs}\.{_CONV_NORM}", rf"{new}.{ours}.\{group + 1}") for theirs, ours in places.items()]


_STAGE_PLACES = {
    r"backbone\.ERBlock_([2-5])\.1": r"backbone.bottom_up.stages.\1.body",
    r"neck\.Rep_p4": "backbone.neck.down.0",
    r"neck\.Rep_p3": "backbone.neck.down.1",
    r"neck\.Rep_n3": "backbone.neck.up.0",
    r"neck\.Rep_n4": "backbone.neck.up.1",
}
_CSP_POOL = {"cv1": "before.0", "cv3": "before.1", "cv4": "before.2", "cv5": "after.0", "cv6": "after.1"}
_CSP_POOL |= {"cv2": "beside", "cv7": "leave"}

BACKBONE: list[Rule] = [
    (rf"backbone\.stem\.{_UNIT}", r"backbone.bottom_up.stem.\1"),
    (rf"backbone\.ERBlock_([2-5])\.0\.{_UNIT}", r"backbone.bottom_up.stages.\1.down.\2"),
    (rf"backbone\.ERBlock_5\.2\.(?:sppf\.)?cv1\.{_CONV_NORM}", r"backbone.bottom_up.pool.enter.\1"),
    (rf"backbone\.ERBlock_5\.2\.(?:sppf\.)?cv2\.{_CONV_NORM}", r"backbone.bottom_up.pool.leave.\1"),
    *(
        (rf"backbone\.ERBlock_5\.2\.cspsppf\.{theirs}\.{_CONV_NORM}", rf"backbone.bottom_up.pool.{ours}.\1")
        for theirs, ours in _CSP_POOL.items()
    ),
]
_JOIN = r"backbone.neck.join.\1"
NECK: list[Rule] = [
    (rf"neck\.reduce_layer([01])\.{_CONV_NORM}", r"backbone.neck.reduce.\1.\2"),
    (rf"neck\.downsample2\.{_CONV_NORM}", r"backbone.neck.shrink.0.\1"),
    (rf"neck\.downsample1\.{_CONV_NORM}", r"backbone.neck.shrink.1.\1"),
    (r"neck\.upsample([01])\.upsample_transpose\.(weight|bias)", rf"{_JOIN}.\2"),
    (r"neck\.Bifusion([01])\.upsample\.upsample_transpose\.(weight|bias)", rf"{_JOIN}.enlarge.\2"),
    (rf"neck\.Bifusion([01])\.cv1\.{_CONV_NORM}", rf"{_JOIN}.same.\2"),
    (rf"neck\.Bifusion([01])\.cv2\.{_CONV_NORM}", rf"{_JOIN}.fine.\2"),
    (rf"neck\.Bifusion([01])\.cv3\.{_CONV_NORM}", rf"{_JOIN}.leave.\2"),
    (rf"neck\.Bifusion([01])\.downsample\.{_CONV_NORM}", rf"{_JOIN}.shrink.\2"),
]
_LEVEL = r"head.levels.\1"
HEAD: list[Rule] = [
    (r"detect\.proj(?:_conv\.weight)?", None),  # the numbers of the bins
    (rf"detect\.stems\.([0-2])\.{_CONV_NORM}", rf"{_LEVEL}.stem.\2"),
    (rf"detect\.cls_convs\.([0-2])\.{_CONV_NORM}", rf"{_LEVEL}.class_conv.\2"),
    (rf"detect\.reg_convs\.([0-2])\.{_CONV_NORM}", rf"{_LEVEL}.box_conv.\2"),
    (r"detect\.cls_preds\.([0-2])\.(weight|bias)", rf"{_LEVEL}.classes.\2"),
    (r"detect\.reg_preds\.([0-2])\.(weight|bias)", rf"{_LEVEL}.boxes.\2"),
    (r"detect\.reg_preds_dist\.([0-2])\.(weight|bias)", rf"{_LEVEL}.bins.\2"),
    (r"detect\.cls_preds_ab\.([0-2])\.(weight|bias)", rf"{_LEVEL}.anchor_classes.\2"),
    (r"detect\.reg_preds_ab\.([0-2])\.(weight|bias)", rf"{_LEVEL}.anchor_boxes.\2"),
]


def _matches(names: Collection[str]) -> bool:
    return any(name.startswith("detect.cls_preds.") for name in names) and any(n.startswith("backbone.") for n in names)


def convert(weights: Weights) -> Weights:
    """Weights under densekit's names.

    Raises:
        ValueError: a form of the network that is not built, a network in its deployed form, or names not known.
    """
    if any("ERBlock_6" in name or name.startswith("detect.stems.3") for name in weights):
        raise ValueError("The weights are of a P6 form of YOLOv6 (N6, S6, M6, L6), which densekit does not build.")
    if not any(name.startswith("backbone.stem.") for name in weights):
        raise ValueError(
            "The weights are of a lite form of YOLOv6 (Lite-S, Lite-M, Lite-L), which densekit does not build."
        )
    if any(".rbr_reparam." in name for name in weights):
        raise ValueError(
            "The weights are of a YOLOv6 in its deployed form, whose branches have been added up and cannot be trained "
            "or loaded any more. Load the checkpoint of the training and call fuse() on the model."
        )
    csp = any(".Rep_p4.cv3." in name for name in weights)
    stages = [
        rule
        for old, new in _STAGE_PLACES.items()
        for rule in (*_stage(old, new), *_around(old, new, csp))
    ]
    return rename(rename(weights, [*BACKBONE, *stages, *NECK, *HEAD], YOLOV6.name), LEAVES, YOLOV6.name)


YOLOV6 = Layout("YOLOv6", _matches, convert)
