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
    cfg = load_config(str(ROOT / "configs" / config), ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", ""])  # no values
    with torch.device("meta"):
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
    return torchvision_resnet(name.replace("backbone.0.backbone.", "backbone.0.body."))


def torchvision_resnet(name: str) -> str:
    name = name.replace("stem.", "").replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")
    name = re.sub(r"conv(\d)\.norm\.", r"bn\1.", name)
    return re.sub(r"res(\d)\.", lambda match: f"layer{int(match[1]) - 1}.", name)


def mmdetections_mask_scoring(name: str) -> str:
    """mmdetection 2's Mask Scoring R-CNN: lists count from 0, and every head is below ``roi_head``."""
    if name.startswith("backbone.bottom_up."):
        return torchvision_resnet(name.replace("bottom_up.", ""))
    for ours, theirs in (
        (r"backbone\.fpn_lateral(\d)", r"neck.lateral_convs.{}.conv"),
        (r"backbone\.fpn_output(\d)", r"neck.fpn_convs.{}.conv"),
        (r"roi_heads\.box_head\.fc(\d)", r"roi_head.bbox_head.shared_fcs.{}"),
        (r"roi_heads\.mask_head\.mask_fcn(\d)", r"roi_head.mask_head.convs.{}.conv"),
        (r"roi_heads\.maskiou_head\.maskiou_fcn(\d)", r"roi_head.mask_iou_head.convs.{}"),
        (r"roi_heads\.maskiou_head\.maskiou_fc(\d)", r"roi_head.mask_iou_head.fcs.{}"),
    ):
        first = 2 if "fpn" in ours else 1
        name = re.sub(ours, lambda match, text=theirs, first=first: text.format(int(match[1]) - first), name)
    for ours, theirs in (
        ("proposal_generator.rpn_head.conv.", "rpn_head.rpn_conv."),
        ("proposal_generator.rpn_head.objectness_logits.", "rpn_head.rpn_cls."),
        ("proposal_generator.rpn_head.anchor_deltas.", "rpn_head.rpn_reg."),
        ("roi_heads.box_predictor.cls_score.", "roi_head.bbox_head.fc_cls."),
        ("roi_heads.box_predictor.bbox_pred.", "roi_head.bbox_head.fc_reg."),
        ("roi_heads.mask_head.deconv.", "roi_head.mask_head.upsample."),
        ("roi_heads.mask_head.predictor.", "roi_head.mask_head.conv_logits."),
        ("roi_heads.maskiou_head.maskiou.", "roi_head.mask_iou_head.fc_mask_iou."),
    ):
        name = name.replace(ours, theirs)
    return name


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
        ("pointrend/pointrend_rcnn_R_50_FPN_1x_coco.yaml", early_pointrend, "Detectron2's early PointRend"),
        ("detr/detr_R_50.yaml", authors_detr, "DETR"),
        ("detr/detr_R_50_masks.yaml", authors_detr, "DETR"),
        ("detr/detr_R_50_panoptic.yaml", authors_detr, "DETR"),
        ("mask_scoring/mask_scoring_R_50_FPN_1x.yaml", mmdetections_mask_scoring, "mmdetection"),
        ("upernet/upernet_R_50_ade20k.yaml", mmsegmentations_upernet, "mmsegmentation"),
        ("upernet/upernet_R_50_csail_ade20k.yaml", authors_upernet, "UPerNet's authors"),
    ],
    ids=["pointrend", "detr", "detr-masks", "detr-panoptic", "mask-scoring", "upernet-mmseg", "upernet-authors"],
)
def test_other_names_of_a_model_become_its_own(tmp_path, capsys, config, rename, layout):
    wanted = shapes_of_model(config)
    names = {rename(name): shape for name, shape in wanted.items()}
    assert len(names) == len(wanted) and names.keys() != wanted.keys()
    found, said = converted(tmp_path, names, capsys)
    assert f"({layout})" in said
    assert found == wanted
