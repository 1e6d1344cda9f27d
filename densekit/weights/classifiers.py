"""Weights of a backbone alone, as its authors trained it to classify images: the names are not nested.

The backbone goes where the model has it. Its classifier and whatever else the model has no use for is left out by the
part's rules. (torchvision's plain ResNets are matched name by name in names.py.)
"""

from densekit.weights.parts import Part, Slot, Vocabulary, register_part, register_vocabulary, wherever_it_is
from densekit.weights.renaming import RESNET_SIGN, Weights, resnet_rules

NAME = "a backbone alone"

register_vocabulary(
    Vocabulary(
        NAME,
        {"backbone": Slot("", wherever_it_is("backbone."), optional=False)},
        ignored=(r".+\.(?:num_batches_tracked|_tmp_running_mean|_tmp_running_var|_running_iter)",),
    )
)


def _check_stem(weights: Weights, model: Weights) -> Weights:
    """Refuses a model of which all but the stem would fit."""
    if "stem.conv3.weight" not in model:
        raise ValueError(
            "The weights are of a ResNet with a stem of three convolutions, and the model has none: set "
            "MODEL.BACKBONE.NAME, or of a pyramid MODEL.FPN.BOTTOM_UP, to build_deep_stem_resnet_backbone."
        )
    return weights


register_part(
    Part(
        "deep-stem ResNet",
        (NAME,),
        "backbone",
        (RESNET_SIGN, r"conv3\.weight|stem\.6\.weight"),
        [(r"fc\.\w+", None), *resnet_rules()],
        fit=_check_stem,
    )
)
