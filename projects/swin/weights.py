"""Names of Swin's published weights, as a backbone: its authors', timm's, torchvision's and OpenMMLab's.

The authors' classifiers, their detectors and segmentation models and the known ports to Detectron2 have densekit's
names. A classifier's last norm and head go into an image classifier alone: each map of a detector's backbone has a norm
of its own, which is new. Windows and image sizes are fitted by the model, :mod:`.resizing`.
"""

import re

import torch

from densekit.weights.classifiers import NAME as CLASSIFIERS
from densekit.weights.openmmlab import DETECTORS, SEGMENTORS
from densekit.weights.parts import Part, register_part
from densekit.weights.pixels import IMAGENET_RGB
from densekit.weights.renaming import Rule, Weights

_DERIVED: Rule = (r".*(?:relative_position_index|attn_mask)", None)
_CLASSIFIER: Rule = (r"(?:norm|head|head\.fc)\.(?:weight|bias)", None)

# A name that every file of a kind has, and no other kind.
SIGNS = {
    "Swin": r"layers\.0\.downsample\.reduction\.weight",
    "timm's Swin": r"layers[._]3\.downsample\.reduction\.weight",
    "torchvision's Swin": r"features\.1\.0\.attn\.qkv\.weight",
    "OpenMMLab's Swin": r"stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight",
}

AUTHORS: list[Rule] = [
    _DERIVED,
    (r"((?:patch_embed|layers)\..+|absolute_pos_embed|norm\d\.\w+)", r"\1"),
    _CLASSIFIER,
]

# timm merges at the start of a stage, and numbers with "_" where it makes a pyramid.
TIMM: list[Rule] = [
    _DERIVED,
    *[(rf"layers[._]{k + 1}\.downsample\.(.+)", rf"layers.{k}.downsample.\1") for k in range(3)],
    (r"layers[._](\d)\.(blocks\..+)", r"layers.\1.\2"),
    (r"(patch_embed\..+|absolute_pos_embed)", r"\1"),
    _CLASSIFIER,
]

TORCHVISION: list[Rule] = [
    _DERIVED,
    (r"features\.0\.0\.(\w+)", r"patch_embed.proj.\1"),
    (r"features\.0\.2\.(\w+)", r"patch_embed.norm.\1"),
]
OPENMMLAB: list[Rule] = [
    _DERIVED,
    (r"patch_embed\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"(patch_embed\.norm\.\w+|absolute_pos_embed|norm\d\.\w+)", r"\1"),
    (r"stages\.(\d)\.downsample\.(.+)", r"layers.\1.downsample.\2"),
    (r"stages\.(\d)\.blocks\.(\d+)\.(norm\d\.\w+)", r"layers.\1.blocks.\2.\3"),
    (r"stages\.(\d)\.blocks\.(\d+)\.attn\.w_msa\.(.+)", r"layers.\1.blocks.\2.attn.\3"),
    (r"stages\.(\d)\.blocks\.(\d+)\.ffn\.layers\.0\.0\.(\w+)", r"layers.\1.blocks.\2.mlp.fc1.\3"),
    (r"stages\.(\d)\.blocks\.(\d+)\.ffn\.layers\.1\.(\w+)", r"layers.\1.blocks.\2.mlp.fc2.\3"),
]
for k in range(4):  # torchvision numbers stages and mergings in turn
    blocks, old = rf"layers.{k}.blocks.\1", rf"features\.{2 * k + 1}\.(\d+)\."
    TORCHVISION += [
        (old + r"((?:norm\d|attn)\..+)", blocks + r".\2"),
        (old + r"mlp\.0\.(\w+)", blocks + r".mlp.fc1.\2"),
        (old + r"mlp\.3\.(\w+)", blocks + r".mlp.fc2.\2"),
        (rf"features\.{2 * k + 2}\.((?:norm|reduction)\.\w+)", rf"layers.{k}.downsample.\1"),
    ]
TORCHVISION.append(_CLASSIFIER)


def merge_order(name: str, value: torch.Tensor) -> torch.Tensor:
    """Brings OpenMMLab's merging to the published order.

    It unfolds 2 x 2 patches, which puts the four places, row by row, inside of each channel; here the channels are
    inside of each place, and the places go down the columns.

    Args:
        name: new name of the entry; those of other layers stay as they are.
        value: (..., C * 4).
    """
    if ".downsample." not in name:
        return value
    places = value.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]]  # (..., C, 4), down the columns
    return places.transpose(-1, -2).flatten(-2).contiguous()


_ALONE, _EITHER = (CLASSIFIERS,), (CLASSIFIERS, DETECTORS, SEGMENTORS)
register_part(Part("Swin", _EITHER, "backbone", (SIGNS["Swin"],), AUTHORS, pixels=IMAGENET_RGB))
register_part(Part("timm's Swin", _ALONE, "backbone", (SIGNS["timm's Swin"],), TIMM, pixels=IMAGENET_RGB))
register_part(
    Part(
        "torchvision's Swin",
        _ALONE,
        "backbone",
        (SIGNS["torchvision's Swin"],),
        TORCHVISION,
        pixels=IMAGENET_RGB,
    )
)
register_part(
    Part(
        "OpenMMLab's Swin",
        _EITHER,
        "backbone",
        (SIGNS["OpenMMLab's Swin"],),
        OPENMMLAB,
        adapt=merge_order,
        pixels=IMAGENET_RGB,
    )
)


def _of_the_last_stage(weights: Weights, model: Weights) -> Weights:
    """Names a classifier's norm as that of the model's last map."""
    last = max((found[1] for name in model if (found := re.fullmatch(r"(norm\d)\.weight", name))), default="norm3")
    return {name.replace("norm", last, 1): value for name, value in weights.items()}


_WITH_HEAD = "|".join(SIGNS[name] for name in ("Swin", "timm's Swin", "torchvision's Swin"))
_HEAD: list[Rule] = [(r"head\.(?:fc\.)?(weight|bias)", r"\1")]
_NORM: list[Rule] = [(r"(norm\.(?:weight|bias))", r"\1")]
register_part(Part("Swin", _ALONE, "last norm", (_WITH_HEAD, r"norm\.weight"), _NORM, fit=_of_the_last_stage))
register_part(Part("Swin", _ALONE, "classifier", (_WITH_HEAD, r"head\.(?:fc\.)?weight"), _HEAD))
