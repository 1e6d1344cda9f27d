"""Published weights of CARAFE: all names become those of the model."""

import torch

from tests.converting import assert_converts


def test_mmdetections_names(tmp_path, reference_dir, capsys):
    names = torch.load(reference_dir / "carafe.pt")["full_manifest"]
    assert_converts(tmp_path, names, "carafe/mask_rcnn_R_50_FPN_carafe_1x.yaml", "mmdetection", capsys)
