"""Weights of densekit's own image classifiers: the backbone goes where the model has it, alone or below a pyramid.

The neck and the linear layer go along only into another image classifier.
"""

from densekit.weights.parts import Part, Slot, Vocabulary, register_part, register_vocabulary, wherever_it_is
from densekit.weights.renaming import Weights

NAME = "densekit's image classifiers"


def _if_the_model_has_it(weights: Weights, model: Weights) -> Weights:
    return weights if model else {}


register_vocabulary(
    Vocabulary(
        NAME,
        {
            "backbone": Slot(r"backbone\.", wherever_it_is("backbone."), optional=False),
            "neck": Slot(r"neck\.", "neck."),
            "classifier": Slot(r"classifier\.", "classifier.", optional=False),
        },
    )
)
_AS_IT_IS = [(r".+", r"\g<0>")]
register_part(Part("backbone", (NAME,), "backbone", (), _AS_IT_IS))
register_part(Part("neck", (NAME,), "neck", (), _AS_IT_IS, fit=_if_the_model_has_it))
register_part(Part("classifier", (NAME,), "classifier", (r"weight", r"bias"), _AS_IT_IS, fit=_if_the_model_has_it))
