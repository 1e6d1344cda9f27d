"""Weights of UPerNet, mmsegmentation's and its authors', and of the ResNets with a deep stem that both are trained on.

mmsegmentation's checkpoints (0.11 and later) hold a whole model. The authors have a file for the encoder and one for
the decoder; each is read by itself, and so is a file with the entries of both. They are of different conventions:
``MODEL.UPERNET.CONVENTION`` "mmseg" and "csail". Their ResNets are ``build_deep_stem_resnet_backbone`` with 64 channels
behind the stem (mmsegmentation's ResNetV1c) and with 128.
"""

from collections.abc import Collection

from densekit.weights.mmdetection import resnet_rules
from densekit.weights.renaming import Layout, Rule, Weights, rename

_COUNTERS: Rule = (r".+\.(?:num_batches_tracked|_tmp_running_mean|_tmp_running_var|_running_iter)", None)

# mmsegmentation's module -> densekit's; each has a `conv` and a `bn`.
_MMSEG_MODULES = {
    r"decode_head\.psp_modules\.(\d)\.1": r"sem_seg_head.ppm.branches.\1",
    r"decode_head\.bottleneck": r"sem_seg_head.ppm.project",
    r"decode_head\.lateral_convs\.(\d)": r"sem_seg_head.laterals.\1",
    r"decode_head\.fpn_convs\.(\d)": r"sem_seg_head.outputs.\1",
    r"decode_head\.fpn_bottleneck": r"sem_seg_head.fuse",
    r"auxiliary_head\.convs\.(\d)": r"sem_seg_head.auxiliary.convs.\1",
}
# The authors' -> densekit's; each has the convolution as 0 and its norm as 1.
_CSAIL_MODULES = {
    r"ppm_conv\.(\d)": r"sem_seg_head.ppm.branches.\1",
    r"ppm_last_conv": r"sem_seg_head.ppm.project",
    r"fpn_in\.(\d)": r"sem_seg_head.laterals.\1",
    r"fpn_out\.(\d)\.0": r"sem_seg_head.outputs.\1",
    r"conv_last\.0": r"sem_seg_head.fuse",
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


_MMSEG: list[Rule] = [
    _COUNTERS,
    *resnet_rules("backbone"),
    *_rules(_MMSEG_MODULES, "conv", "bn"),
    (r"decode_head\.conv_seg\.(\w+)", r"sem_seg_head.predictor.\1"),
    (r"auxiliary_head\.conv_seg\.(\w+)", r"sem_seg_head.auxiliary.predictor.\1"),
]
_RESNET: list[Rule] = [(r"fc\.\w+", None), *resnet_rules("backbone", source="")]
_CSAIL: list[Rule] = [
    _COUNTERS,
    *_RESNET,
    *_rules(_CSAIL_MODULES, "0", "1"),
    (r"conv_last\.1\.(\w+)", r"sem_seg_head.predictor.\1"),
]


def _matches_mmseg(names: Collection[str]) -> bool:
    return "decode_head.fpn_bottleneck.conv.weight" in names


def _matches_csail(names: Collection[str]) -> bool:
    return "ppm_last_conv.0.weight" in names


def _matches_resnet(names: Collection[str]) -> bool:
    return "layer1.0.conv1.weight" in names and ("conv3.weight" in names or "stem.6.weight" in names)


def _convert_mmseg(weights: Weights) -> Weights:
    return rename(weights, _MMSEG, MMSEG_UPERNET.name)


def _convert_csail(weights: Weights) -> Weights:
    return rename(weights, _CSAIL, CSAIL_UPERNET.name)


def _convert_resnet(weights: Weights) -> Weights:
    return rename(weights, [_COUNTERS, *_RESNET], DEEP_STEM_RESNET.name)


def _fit_resnet(weights: Weights, model: Weights) -> Weights:
    """Puts the backbone where the model has it, which need not be ``backbone``."""
    last = "stem.conv3.weight"
    place = next((name.removesuffix(last) for name in model if name.endswith(last)), None)
    if place is None:
        raise ValueError(
            "The weights are of a ResNet with a stem of three convolutions, and the model has none: set "
            "MODEL.BACKBONE.NAME, or of a pyramid MODEL.FPN.BOTTOM_UP, to build_deep_stem_resnet_backbone."
        )
    return {place + name.removeprefix("backbone."): value for name, value in weights.items()}


MMSEG_UPERNET = Layout("mmsegmentation's UPerNet", _matches_mmseg, _convert_mmseg)
CSAIL_UPERNET = Layout("the UPerNet of its authors", _matches_csail, _convert_csail)
DEEP_STEM_RESNET = Layout("deep-stem ResNet", _matches_resnet, _convert_resnet, _fit_resnet)
