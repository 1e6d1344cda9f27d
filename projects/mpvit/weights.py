"""Vocabulary of MPViT's published checkpoints.

The authors' files repeat the two position encodings of a path under each of its layers and each of its attentions; the
copies are one tensor, which is taken once.
"""

from collections.abc import Sequence

from densekit.weights import classifiers
from densekit.weights.parts import Part, Slot, Vocabulary, register_part, register_vocabulary
from densekit.weights.pixels import IMAGENET_RGB
from densekit.weights.renaming import Rule

_BN = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_LINEAR = r"(weight|bias)"
_PATH = r"mhca_stages\.(\d+)\.mhca_blks\.(\d+)\."
_LAYER = _PATH + r"MHCA_layers\.(\d+)\."

BACKBONE: Sequence[Rule] = (
    (r"stem\.(\d)\.conv\.weight", r"stem.\1.conv.weight"),
    (rf"stem\.(\d)\.bn\.{_BN}", r"stem.\1.norm.\2"),
    (
        r"patch_embed_stages\.(\d+)\.patch_embeds\.(\d+)\.patch_conv\.dwconv\.weight",
        r"stages.\1.patches.\2.depthwise.weight",
    ),
    (
        r"patch_embed_stages\.(\d+)\.patch_embeds\.(\d+)\.patch_conv\.pwconv\.weight",
        r"stages.\1.patches.\2.pointwise.weight",
    ),
    (rf"patch_embed_stages\.(\d+)\.patch_embeds\.(\d+)\.patch_conv\.bn\.{_BN}", r"stages.\1.patches.\2.norm.\3"),
    (rf"{_PATH}cpe\.proj\.{_LINEAR}", r"stages.\1.paths.\2.position.conv.\3"),
    (rf"{_PATH}crpe\.conv_list\.(\d+)\.{_LINEAR}", r"stages.\1.paths.\2.relative.convs.\3.\4"),
    (rf"{_LAYER}(?:cpe\.proj|(?:factoratt_crpe\.)?crpe\.conv_list\.\d+)\.{_LINEAR}", None),
    (rf"{_LAYER}norm([12])\.{_LINEAR}", r"stages.\1.paths.\2.layers.\3.norm\4.\5"),
    (rf"{_LAYER}factoratt_crpe\.(qkv|proj)\.{_LINEAR}", r"stages.\1.paths.\2.layers.\3.attention.\4.\5"),
    (rf"{_LAYER}mlp\.(fc[12])\.{_LINEAR}", r"stages.\1.paths.\2.layers.\3.\4.\5"),
    (r"mhca_stages\.(\d+)\.InvRes\.(conv[12])\.conv\.weight", r"stages.\1.local.\2.conv.weight"),
    (rf"mhca_stages\.(\d+)\.InvRes\.(conv[12])\.bn\.{_BN}", r"stages.\1.local.\2.norm.\3"),
    (r"mhca_stages\.(\d+)\.InvRes\.dwconv\.weight", r"stages.\1.local.depthwise.weight"),
    (rf"mhca_stages\.(\d+)\.InvRes\.norm\.{_BN}", r"stages.\1.local.norm.\2"),
    (r"mhca_stages\.(\d+)\.aggregate\.conv\.weight", r"stages.\1.aggregate.conv.weight"),
    (rf"mhca_stages\.(\d+)\.aggregate\.bn\.{_BN}", r"stages.\1.aggregate.norm.\2"),
)
CLASSIFIER: Sequence[Rule] = ((rf"cls_head\.cls\.{_LINEAR}", r"classifier.\1"),)

_SIGNS = (r"mhca_stages\.0\.mhca_blks\.0\.cpe\.proj\.weight",)
# The authors' detectors: Detectron2's names but for the backbone, which they nest once more.
_DETECTORS = "MPViT's Detectron2 project"

register_vocabulary(
    Vocabulary(
        _DETECTORS,
        {
            "backbone": Slot(r"backbone\.bottom_up\.backbone\.", "backbone.bottom_up.network.", optional=False),
            "everything else": Slot("", ""),
        },
    )
)
register_part(Part("MPViT", (_DETECTORS,), "backbone", _SIGNS, BACKBONE, pixels=IMAGENET_RGB))
register_part(
    Part("heads of Detectron2", (_DETECTORS,), "everything else", (), [(r"(?!backbone\.bottom_up\.).+", r"\g<0>")])
)
register_part(
    Part(
        "MPViT",
        (classifiers.NAME,),
        "backbone",
        _SIGNS,
        [(r"cls_head\..+", None), *BACKBONE],
        pixels=IMAGENET_RGB,
    )
)
register_part(
    Part(
        "MPViT",
        (classifiers.NAME,),
        "classifier",
        (*_SIGNS, r"cls_head\.cls\.weight"),
        [(rf"cls_head\.cls\.{_LINEAR}", r"\1")],
    )
)
