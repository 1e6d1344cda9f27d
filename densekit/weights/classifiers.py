"""Weights of a network that its authors trained to classify images: the names are not nested.

The backbone goes where the model has it. What comes behind it, the last norm, the neck and the linear layer, goes along
into an image classifier; a detector has no use for it and gets the backbone alone. (torchvision's plain ResNets are
matched name by name in names.py.)
"""

from collections.abc import Collection, Mapping

from densekit.weights.parts import Part, Place, Slot, Vocabulary, register_part, register_vocabulary, wherever_it_is
from densekit.weights.renaming import RESNET_SIGN, Weights, resnet_rules

NAME = "a backbone alone"


_BACKBONE = wherever_it_is("backbone.")


def _of_a_classifier(prefix: str | None, *needs: str) -> Place:
    """A place for what only an image classifier has.

    Args:
        prefix: what the names begin with there; None: what those of the backbone begin with.
        needs: parts that the model must have besides.
    """

    def place(
        entries: Collection[str], slots: Mapping[str, Collection[str]], model: Collection[str] | None
    ) -> str | None:
        parts = () if model is None else {name.split(".")[0] for name in model}
        if not {"classifier", *needs} <= set(parts):
            return None
        return _BACKBONE(slots["backbone"], slots, model) if prefix is None else prefix

    return place


register_vocabulary(
    Vocabulary(
        NAME,
        {
            # Before the backbone, whose rules leave these entries out.
            "last norm": Slot("", _of_a_classifier(None)),
            "neck": Slot("", _of_a_classifier("neck.", "neck")),
            "classifier": Slot("", _of_a_classifier("classifier.")),
            "backbone": Slot("", _BACKBONE, optional=False),
        },
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
register_part(
    Part(
        "deep-stem ResNet",
        (NAME,),
        "classifier",
        (RESNET_SIGN, r"conv3\.weight|stem\.6\.weight", r"fc\.weight"),
        [(r"fc\.(weight|bias)", r"\1")],
    )
)
