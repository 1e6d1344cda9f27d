"""The names of parameters in published inpainting checkpoints, part by part.

Weights of naoto0804's re-implementation of partial convolutions are for ``GENERATOR.RESCALE False``: its layer divides
by the mask's sum without the factor of the window. Its ``mask_conv`` are constant windows of ones, which no layer here
has.
"""

from densekit.weights.parts import Part, Slot, Vocabulary, register_part, register_vocabulary
from densekit.weights.renaming import Rule

_MOST_LEVELS = 12
_TENSOR = r"(weight|bias|running_mean|running_var|num_batches_tracked)"

# Rules are relative to the generator and the discriminator.
PARTIAL_UNET: list[Rule] = [
    (r"(?:enc|dec)_\d+\.conv\.mask_conv\.weight", None),
    *(
        (rf"{short}_{level}\.{old}\.{_TENSOR}", rf"{part}.{level - 1}.{new}.\1")
        for level in range(1, _MOST_LEVELS + 1)
        for short, part in (("enc", "encoder"), ("dec", "decoder"))
        for old, new in ((r"conv\.input_conv", "conv"), ("bn", "norm"))
    ),
]


def _numbered(number: int, place: str) -> list[Rule]:
    """Convolution and BatchNorm of one number, which are the first and the last of a block here."""
    return [
        (rf"(?:de)?conv{number}\.{_TENSOR}", rf"{place}.0.\1"),
        (rf"bn{number}\.{_TENSOR}", rf"{place}.2.\1"),
    ]


_PLACES = [*(f"encoder.{i}" for i in range(4)), *(f"middle.{i}" for i in range(8)), "up1", "conv1", "up2", "conv2"]
GLOBAL_LOCAL: list[Rule] = [
    *(rule for number, place in enumerate(_PLACES, start=1) for rule in _numbered(number, place)),
    (r"conv17\.(weight|bias)", r"predictor.\1"),
]

# The layers of a tower lie in one sequence: three for each convolution, then flattening and the linear layer.
GLOBAL_LOCAL_DISCRIMINATOR: list[Rule] = [
    *(
        (rf"model_{short}\.{old}{number}\.{_TENSOR}", rf"{tower}.{3 * (number - 1) + offset}.\1")
        for short, tower in (("ld", "local_tower"), ("gd", "global_tower"))
        for number in range(1, _MOST_LEVELS + 1)
        for old, offset in (("conv", 0), ("bn", 2), ("linear", 1))
    ),
    (r"linear1\.(weight|bias)", r"predictor.\1"),
]

_NAOTO = "naoto0804's partial convolutions"
_OTENIM, _OTENIM_DISCRIMINATOR = "otenim's Global&Local generator", "otenim's Global&Local discriminator"

for _name, _slot in ((_NAOTO, "generator"), (_OTENIM, "generator"), (_OTENIM_DISCRIMINATOR, "discriminator")):
    register_vocabulary(Vocabulary(_name, {_slot: Slot("", f"{_slot}.", optional=False)}))
register_part(Part("U-Net", (_NAOTO,), "generator", (r"enc_1\.conv\.input_conv\.weight",), PARTIAL_UNET))
register_part(Part("completion network", (_OTENIM,), "generator", (r"deconv13\.weight",), GLOBAL_LOCAL))
register_part(
    Part(
        "two towers",
        (_OTENIM_DISCRIMINATOR,),
        "discriminator",
        (r"model_ld\.conv1\.weight", r"model_gd\.conv1\.weight"),
        GLOBAL_LOCAL_DISCRIMINATOR,
    )
)
