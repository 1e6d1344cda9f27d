"""``densekit convert`` on a full-size file of Detectron2, whose names stay."""

import torch

from tests.converting import assert_converts


def test_names_of_detectron2_are_kept(tmp_path, reference_dir, capsys):
    names = torch.load(reference_dir / "detectron2.pt")["manifest"]["mask_fpn"]
    assert_converts(tmp_path, names, "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", "names kept", capsys)
