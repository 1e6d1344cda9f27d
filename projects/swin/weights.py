"""Names of Swin's published weights, as a backbone: its authors', timm's, torchvision's and OpenMMLab's.

The authors' classifiers, their detectors and segmentation models and the known ports to Detectron2 have densekit's
names. A classifier's last norm and head are left out: each map of a backbone has a norm of its own, which is new.
Windows and image sizes are fitted by the model, :mod:`.resizing`.
"""

import torch

from densekit.weights.renaming import Rule, Weights, rename

_DERIVED: Rule = (r".*(?:relative_position_index|attn_mask)", None)
_CLASSIFIER: Rule = (r"(?:norm|head|head\.fc)\.(?:weight|bias)", None)

# Names that a file of the vocabulary has and no other.
SIGNS = {
    "authors": r"layers\.0\.downsample\.reduction\.weight",
    "timm": r"layers[._]3\.downsample\.reduction\.weight",
    "torchvision": r"features\.1\.0\.attn\.qkv\.weight",
    "OpenMMLab": r"stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight",
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


_RULES = {"authors": AUTHORS, "timm": TIMM, "torchvision": TORCHVISION, "OpenMMLab": OPENMMLAB}


def convert_backbone(weights: Weights, vocabulary: str) -> Weights:
    """Renames the entries of a backbone, whose names are relative to it.

    Args:
        weights: of the file.
        vocabulary: a key of :data:`SIGNS`.

    Raises:
        ValueError: names of no known part; the message lists them.
    """
    renamed = rename(weights, _RULES[vocabulary], f"Swin ({vocabulary})")
    if vocabulary != "OpenMMLab":
        return renamed
    return {name: merge_order(name, value) for name, value in renamed.items()}
