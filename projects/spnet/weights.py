"""Vocabularies of SPNet's published checkpoints, by part; ``ckpt['state_dict']`` has ``module.`` before every name."""

from collections.abc import Sequence

from densekit.weights.parts import Part, Slot, Vocabulary, register_part, register_vocabulary
from densekit.weights.renaming import Rule

_BN = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_BLOCK = r"layer{}\.(\d+)\."


def _conv_norm(theirs: str, ours: str, groups: int) -> list[Rule]:
    """A convolution that is 0 in its module, its norm 1."""
    last = rf"\{groups + 1}"
    return [(rf"{theirs}\.0\.weight", f"{ours}.conv.weight"), (rf"{theirs}\.1\.{_BN}", f"{ours}.norm.{last}")]


def _strip_pooling(theirs: str, ours: str, groups: int) -> list[Rule]:
    last = rf"\{groups + 1}"
    rules: list[Rule] = []
    for number, part in ((1, "rows"), (2, "columns")):
        rules.append((rf"{theirs}conv{number}\.weight", f"{ours}{part}.conv.weight"))
        rules.append((rf"{theirs}bn{number}\.{_BN}", f"{ours}{part}.norm.{last}"))
    return [*rules, (rf"{theirs}conv3\.(weight|bias)", f"{ours}gate.{last}")]


def _mixed_pooling(theirs: str, ours: str, groups: int = 0) -> list[Rule]:
    parts = {"1_1": "reduce_short", "1_2": "reduce_long", "2_0": "local", "2_1": "pooled.0", "2_2": "pooled.1"}
    parts |= {"2_3": "columns", "2_4": "rows", "2_5": "short", "2_6": "long", "3": "join"}
    return [
        rule for number, part in parts.items() for rule in _conv_norm(rf"{theirs}conv{number}", f"{ours}{part}", groups)
    ]


def _backbone() -> list[Rule]:
    rules: list[Rule] = []
    for number, (conv, norm) in enumerate(
        ((r"conv1\.0", r"conv1\.1"), (r"conv1\.3", r"conv1\.4"), (r"conv1\.6", "bn1")), 1
    ):
        rules.append((rf"{conv}\.weight", f"stem.conv{number}.weight"))
        rules.append((rf"{norm}\.{_BN}", rf"stem.conv{number}.norm.\1"))
    for layer in range(1, 5):
        block, target = _BLOCK.format(layer), rf"res{layer + 1}.\1."
        rules += [
            (rf"{block}conv(\d)\.weight", rf"{target}conv\2.weight"),
            (rf"{block}bn(\d)\.{_BN}", rf"{target}conv\2.norm.\3"),
            (rf"{block}downsample\.0\.weight", f"{target}shortcut.weight"),
            (rf"{block}downsample\.1\.{_BN}", rf"{target}shortcut.norm.\2"),
            *_strip_pooling(rf"{block}spm\.", f"{target}strip.", 1),
        ]
    return rules


BACKBONE: Sequence[Rule] = tuple(_backbone())
STRIP_POOLING: Sequence[Rule] = tuple(_strip_pooling("", "", 0))
MIXED_POOLING: Sequence[Rule] = tuple(_mixed_pooling("", ""))
HEAD: Sequence[Rule] = (
    *_conv_norm("trans_layer", "reduce", 0),
    *_mixed_pooling(r"strip_pool1\.", "pools.0."),
    *_mixed_pooling(r"strip_pool2\.", "pools.1."),
    *_conv_norm("score_layer", "project", 0),
    (r"score_layer\.4\.(weight|bias)", r"predictor.\1"),
)
AUXILIARY: Sequence[Rule] = (
    (r"conv5\.0\.weight", "convs.0.weight"),
    (rf"conv5\.1\.{_BN}", r"convs.0.norm.\1"),
    (r"conv5\.4\.(weight|bias)", r"predictor.\1"),
)

_NAME = "the authors of SPNet"

register_vocabulary(
    Vocabulary(
        _NAME,
        {
            "backbone": Slot(r"pretrained\.", "backbone.", optional=False),
            "head": Slot(r"head\.", "sem_seg_head.", optional=False),
            "auxiliary head": Slot(r"auxlayer\.", "sem_seg_head.auxiliary."),
        },
    )
)
register_part(Part("ResNet with strip pooling", (_NAME,), "backbone", (r"layer1\.0\.conv1\.weight",), BACKBONE))
register_part(Part("mixed pooling", (_NAME,), "head", (r"strip_pool1\.conv3\.0\.weight",), HEAD))
register_part(Part("FCN", (_NAME,), "auxiliary head", (r"conv5\.0\.weight",), AUXILIARY))
