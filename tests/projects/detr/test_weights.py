"""Published weights of DETR: all names become those of the model."""

import pytest
import torch

from tests.converting import assert_converts, assert_converts_renamed, torchvision_resnet


def authors_detr(name: str) -> str:
    """The authors' name of a part of the wrapper's model; theirs has the stages of torchvision's ResNet."""
    name = name.removeprefix("detr.")
    if "backbone.0.backbone." not in name:
        return name
    return torchvision_resnet(name.replace("backbone.0.backbone.", "backbone.0.body."))


def test_wrappers_names(tmp_path, reference_dir, capsys):
    names = torch.load(reference_dir / "detr_d2.pt")["manifest"]
    assert_converts(tmp_path, names, "detr/detr_R_50.yaml", "DETR", capsys)


@pytest.mark.parametrize("config", ["detr_R_50", "detr_R_50_masks", "detr_R_50_panoptic"])
def test_authors_names(tmp_path, capsys, config):
    assert_converts_renamed(tmp_path, authors_detr, f"detr/{config}.yaml", "DETR", capsys)
