"""``densekit convert`` on full-size files under foreign names: nothing is missing and nothing is left over."""

import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from densekit.cli import main
from densekit.config import load_config
from densekit.d2.modeling import build_model

ROOT = Path(__file__).resolve().parents[2]
# Made from the configuration, or counted by norms that models here do not have.
_DERIVED = re.compile(r"pixel_(mean|std)|.*anchor_generator.*|.*num_batches_tracked|.*criterion\.empty_weight")


def shapes_of_model(config: str) -> dict[str, tuple[int, ...]]:
    cfg = load_config(str(ROOT / "configs" / config), ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    shapes = {name: tuple(value.shape) for name, value in build_model(cfg).state_dict().items()}
    return {name: shape for name, shape in shapes.items() if not _DERIVED.fullmatch(name)}


def converted(folder: Path, names: dict[str, tuple[int, ...]], capsys) -> tuple[dict[str, tuple[int, ...]], str]:
    """Names and shapes after the command, and what it prints; bytes stand for numbers, for the sake of the disk."""
    weights = {name: torch.zeros(tuple(shape), dtype=torch.uint8) for name, shape in names.items()}
    torch.save({"model": weights, "optimizer": {"lr": 0.1}}, folder / "theirs.pth")
    assert main(["convert", str(folder / "theirs.pth"), str(folder / "ours.safetensors")]) == 0
    with safe_open(folder / "ours.safetensors", "pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    for path in folder.iterdir():
        path.unlink()
    return {name: shape for name, shape in found.items() if not _DERIVED.fullmatch(name)}, capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "key", "config", "layout"),
    [
        ("carafe.pt", ("full_manifest",), "carafe/mask_rcnn_R_50_FPN_carafe_1x.yaml", "mmdetection"),
        (
            "maskscoring.pt",
            ("manifest",),
            "mask_scoring/mask_scoring_R_50_FPN_1x_authors.yaml",
            "maskrcnn-benchmark",
        ),
        ("detr_d2.pt", ("manifest",), "detr/detr_R_50.yaml", "DETR"),
        (
            "detectron2.pt",
            ("manifest", "mask_fpn"),
            "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
            "names kept",
        ),
    ],
    ids=["mmdetection", "mask-scoring", "detr-wrapper", "detectron2"],
)
def test_recorded_names_of_other_code_become_those_of_the_model(
    tmp_path, reference_dir, capsys, file, key, config, layout
):
    names = torch.load(reference_dir / file)
    for part in key:
        names = names[part]
    found, said = converted(tmp_path, names, capsys)
    assert f"({layout})" in said
    assert found == shapes_of_model(config)


def early_pointrend(name: str) -> str:
    name = name.replace("mask_head.coarse_head.fc", "mask_coarse_head.coarse_mask_fc")
    return name.replace("mask_head.coarse_head", "mask_coarse_head").replace("mask_head.point_head", "mask_point_head")


def authors_detr(name: str) -> str:
    """The authors' name of a part of the wrapper's model; theirs has the stages of torchvision's ResNet."""
    name = name.removeprefix("detr.")
    if "backbone.0.backbone." not in name:
        return name
    name = name.replace("backbone.0.backbone.", "backbone.0.body.").replace("stem.", "")
    name = name.replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")
    name = re.sub(r"conv(\d)\.norm\.", r"bn\1.", name)
    return re.sub(r"res(\d)\.", lambda match: f"layer{int(match[1]) - 1}.", name)


@pytest.mark.parametrize(
    ("config", "rename", "layout"),
    [
        ("pointrend/pointrend_rcnn_R_50_FPN_1x_coco.yaml", early_pointrend, "Detectron2's early PointRend"),
        ("detr/detr_R_50.yaml", authors_detr, "DETR"),
        ("detr/detr_R_50_masks.yaml", authors_detr, "DETR"),
    ],
    ids=["pointrend", "detr", "detr-masks"],
)
def test_other_names_of_a_model_become_its_own(tmp_path, capsys, config, rename, layout):
    wanted = shapes_of_model(config)
    names = {rename(name): shape for name, shape in wanted.items()}
    assert len(names) == len(wanted) and names.keys() != wanted.keys()
    found, said = converted(tmp_path, names, capsys)
    assert f"({layout})" in said
    assert found == wanted
