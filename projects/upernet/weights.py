"""Weights of UPerNet: mmsegmentation's head, and the encoder and decoder of its authors.

The authors have a file for the encoder, a backbone alone, and one for the decoder; each is read by itself, and so is a
file with the entries of both. The two are of different conventions: ``MODEL.UPERNET.CONVENTION`` "mmseg" and "csail".
Their ResNets are ``build_deep_stem_resnet_backbone`` with 64 channels behind the stem (mmsegmentation's ResNetV1c) and
with 128.
"""

from densekit.weights.openmmlab import SEGMENTORS
from densekit.weights.parts import Part, Slot, Vocabulary, register_part, register_vocabulary
from densekit.weights.renaming import RESNET_SIGN, Rule, resnet_rules

_AUTHORS = "UPerNet's authors"

# mmsegmentation's module -> densekit's; each has a `conv` and a `bn`.
_MMSEG_MODULES = {
    r"psp_modules\.(\d)\.1": r"ppm.branches.\1",
    r"bottleneck": r"ppm.project",
    r"lateral_convs\.(\d)": r"laterals.\1",
    r"fpn_convs\.(\d)": r"outputs.\1",
    r"fpn_bottleneck": r"fuse",
}
# The authors' -> densekit's; each has the convolution as 0 and its norm as 1.
_AUTHORS_MODULES = {
    r"ppm_conv\.(\d)": r"ppm.branches.\1",
    r"ppm_last_conv": r"ppm.project",
    r"fpn_in\.(\d)": r"laterals.\1",
    r"fpn_out\.(\d)\.0": r"outputs.\1",
    r"conv_last\.0": r"fuse",
}


def _rules(modules: dict[str, str], conv: str, norm: str) -> list[Rule]:
    rules: list[Rule] = []
    for old, new in modules.items():
        last = 2 if r"\1" in new else 1  # number of the group with the tensor's name
        rules += [
            (rf"{old}\.{conv}\.(weight)", rf"{new}.\{last}"),
            (rf"{old}\.{norm}\.(\w+)", rf"{new}.norm.\{last}"),
        ]
    return rules


register_part(
    Part(
        "UPerHead",
        (SEGMENTORS,),
        "decode_head",
        (r"fpn_bottleneck\.conv\.weight",),
        [*_rules(_MMSEG_MODULES, "conv", "bn"), (r"conv_seg\.(\w+)", r"predictor.\1")],
    )
)
register_vocabulary(
    Vocabulary(
        _AUTHORS,
        {"decoder": Slot("", "sem_seg_head.", optional=False), "encoder": Slot("", "backbone.")},
        ignored=(r".+\.(?:num_batches_tracked|_tmp_running_mean|_tmp_running_var|_running_iter)",),
    )
)
register_part(
    Part(
        "UPerNet",
        (_AUTHORS,),
        "decoder",
        (r"ppm_last_conv\.0\.weight",),
        [*_rules(_AUTHORS_MODULES, "0", "1"), (r"conv_last\.1\.(\w+)", r"predictor.\1")],
    )
)
register_part(Part("ResNet", (_AUTHORS,), "encoder", (RESNET_SIGN,), [(r"fc\.\w+", None), *resnet_rules()]))
