"""The names of the head in the authors' pose checkpoints; those of the network are a part of HRNet's."""

from densekit.weights.parts import Part, Slot, Vocabulary, register_part, register_vocabulary, wherever_it_is
from densekit.weights.renaming import Rule

_NAME = "HRNet's pose code"

HEAD: list[Rule] = [(r"final_layer\.(weight|bias)", r"predictor.\1")]

register_vocabulary(
    Vocabulary(
        _NAME,
        {"head": Slot("", "pose_head.", optional=False), "backbone": Slot("", wherever_it_is("backbone."))},
    )
)
register_part(Part("pose head", (_NAME,), "head", (r"final_layer\.weight",), HEAD))
