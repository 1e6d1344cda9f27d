"""Published weights of UPerNet: all names become those of the model."""

import re

import pytest

from tests.converting import assert_converts_renamed, torchvision_resnet
from tests.projects.upernet.recorded import check
from tests.recorded_cases import assert_agrees


def mmsegmentations_upernet(name: str) -> str:
    """mmsegmentation's UPerNet on a ResNetV1c, whose stem is one list of convolutions, norms and ReLUs."""
    if name.startswith("backbone.stem."):
        name = re.sub(r"conv(\d)\.norm", lambda match: f"{3 * int(match[1]) - 2}", name)
        return re.sub(r"conv(\d)", lambda match: f"{3 * int(match[1]) - 3}", name)
    if name.startswith("backbone."):
        return torchvision_resnet(name)
    name = name.replace("sem_seg_head.auxiliary.", "auxiliary_head.").replace("sem_seg_head.", "decode_head.")
    name = name.replace("predictor", "conv_seg")
    if "conv_seg" in name:
        return name
    name = re.sub(r"ppm\.branches\.(\d)", r"psp_modules.\1.1", name).replace("ppm.project", "bottleneck")
    name = name.replace("laterals", "lateral_convs").replace("outputs", "fpn_convs").replace("fuse", "fpn_bottleneck")
    return name.replace(".norm.", ".bn.") if ".norm." in name else name.replace(".weight", ".conv.weight")


def authors_upernet(name: str) -> str:
    """The names of UPerNet's authors, encoder and decoder in one file; a convolution is 0 in its module, its norm 1."""
    if name.startswith("backbone."):
        return torchvision_resnet(name.removeprefix("backbone."))
    name = name.removeprefix("sem_seg_head.")
    if name.startswith("predictor."):
        return name.replace("predictor", "conv_last.1")
    name = name.replace(".norm.", ".1.") if ".norm." in name else name.replace(".weight", ".0.weight")
    name = (
        name.replace("ppm.branches", "ppm_conv").replace("ppm.project", "ppm_last_conv").replace("laterals", "fpn_in")
    )
    return re.sub(r"outputs\.(\d)", r"fpn_out.\1.0", name).replace("fuse", "conv_last.0")


@pytest.mark.parametrize(
    ("config", "rename", "layout"),
    [
        ("upernet_R_50_ade20k", mmsegmentations_upernet, "mmsegmentation"),
        ("upernet_R_50_csail_ade20k", authors_upernet, "UPerNet's authors"),
    ],
)
def test_published_names(tmp_path, capsys, config, rename, layout):
    assert_converts_renamed(tmp_path, rename, f"upernet/{config}.yaml", layout, capsys)


def test_recorded(reference_dir):
    assert_agrees(check, reference_dir / "upernet.pt")
