"""Checks recorded outputs of Mask Scoring R-CNN's authors: ``python -m tests.projects.mask_scoring.recorded FILE``.

The model is of full size, its weights follow from the names of the manifest; sizes of heads are read from there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import build_model, build_roi_heads
from densekit.d2.structures import Boxes, Instances, PolygonMasks
from densekit.d2.utils.events import EventStorage
from densekit.modeling.mask_logits import select_classes
from densekit.projects.mask_scoring.maskiou_head import MaskIoUHead, mask_iou_loss
from densekit.projects.mask_scoring.targets import maskiou_targets
from densekit.projects.mask_scoring.visible_area import visible_fraction
from densekit.weights.parts import find_layout
from tests.name_seeded import name_seeded
from tests.recorded_cases import Cases, main

CONFIG = str(Path(__file__).resolve().parents[3] / "configs/mask_scoring/mask_scoring_R_50_FPN_1x_authors.yaml")
_HEADS, _HEAD = "roi_heads.", "roi_heads.maskiou_head."


def authors_weights(recorded: Mapping[str, Any]) -> dict[str, Tensor]:
    """The full-size weights under densekit's names."""
    weights = {name: name_seeded(name, shape) for name, shape in recorded["manifest"].items()}
    for name, factor in recorded["post_fill_scaling"].items():
        weights[name] *= factor
    layout = find_layout(weights)
    if layout is None:
        raise ValueError("No known layout has the names of the manifest.")
    return layout.convert(weights)


def part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def polygons(recorded: Mapping[str, Any]) -> list[list[np.ndarray]]:
    """The object of each proposal."""
    case = recorded["mask_targets"]
    return [[np.array(polygon) for polygon in case["polygons"][index]] for index in case["gt_index"]]


def check(recorded: Mapping[str, Any], cases: Cases) -> None:
    weights = authors_weights(recorded)
    _names(weights, cases)
    _targets(recorded, cases)
    _loss(recorded["l2_loss"], cases)
    _head(recorded["maskiou_head_eval"], weights, cases)
    _training(recorded, weights, cases)
    cases.not_checked(
        "ops", "RoI align and NMS of that code base count the last pixel of a box; here the host's do not"
    )
    cases.not_checked("n_params", "its frozen norms have no parameters here; the manifest is compared instead")
    cases.not_checked("train_heads/roi_feature_summ", "sums of the features whose first channels are compared")
    cases.not_checked("train_heads/proposal_labels", "labels before regions without an object are dropped")
    known = {"about", "manifest", "post_fill_scaling", "n_params", "ops", "mask_targets", "train_heads"}
    cases.not_checked(set(recorded) - known - {"l2_loss", "maskiou_head_eval"}, "a kind of case that is not known")


def _names(weights: Mapping[str, Tensor], cases: Cases) -> None:
    with torch.device("meta"):
        model = build_model(load_config(CONFIG, ["MODEL.DEVICE", "meta"]))
    ours = {name: tuple(x.shape) for name, x in model.state_dict().items() if not name.startswith("pixel_")}
    cases.equal("manifest under densekit's names", ours, {name: tuple(x.shape) for name, x in weights.items()})


def _targets(recorded: Mapping[str, Any], cases: Cases) -> None:
    case, masks = recorded["mask_targets"], PolygonMasks(polygons(recorded))
    shares = visible_fraction(masks, case["proposals"], case["image_wh"][::-1])
    cases.close("visible fractions", shares, case["ratios"], atol=1e-6, rtol=0)
    cropped = masks.crop_and_resize(case["proposals"], case["targets"].shape[-1])
    cases.equal("mask targets", cropped, case["targets"].bool())


def _loss(case: Mapping[str, Any], cases: Cases) -> None:
    loss = mask_iou_loss(case["input"], case["target"], case["target"] > 0)
    nothing = torch.zeros_like(case["target"])
    cases.close("l2 loss", loss, case["loss"], atol=1e-6)
    cases.close("l2 loss without targets", mask_iou_loss(case["input"], nothing, nothing > 0), case["all_zero"], atol=0)


def _head(case: Mapping[str, Any], weights: Mapping[str, Tensor], cases: Cases) -> None:
    own = part(weights, _HEAD)
    channels, classes = own["maskiou_fcn1.weight"].shape[1] - 1, len(own["maskiou.bias"])
    regions = len(case["labels"])
    feature = np.random.RandomState(31).standard_normal((regions, channels, 14, 14)).astype(np.float16)
    mask = np.random.RandomState(32).uniform(0, 1, (regions, 1, 28, 28)).astype(np.float32)
    head = MaskIoUHead(in_channels=channels, resolution=14, num_classes=classes, mask_channels=classes)
    head.load_state_dict(own)
    with torch.no_grad():
        overlaps = head(torch.from_numpy(feature).float(), torch.from_numpy(mask))
    cases.close("predicted MaskIoU", overlaps, case["pred_maskiou"][:, 1:])
    scores = case["scores"] * select_classes(overlaps, case["labels"] - 1)
    cases.close("scores of masks", scores, case["mask_scores"])


def _training(recorded: Mapping[str, Any], weights: Mapping[str, Tensor], cases: Cases) -> None:
    """The heads of full size on regions of objects; the records have the others as regions without a loss."""
    case, (width, height) = recorded["train_heads"], recorded["mask_targets"]["image_wh"]
    maps = [_map(i, height >> (2 + i), width >> (2 + i)) for i in range(4)]
    shapes = {f"p{k}": ShapeSpec(channels=256, stride=2**k) for k in range(2, 7)}
    heads = build_roi_heads(load_config(CONFIG), shapes)
    cases.equal("heads' weights", heads.load_state_dict(part(weights, _HEADS), strict=False).missing_keys, [])
    kept = case["matched_labels"] > 0
    regions = Instances((height, width))
    regions.proposal_boxes = Boxes(case["proposals"][: len(kept)][kept])
    regions.gt_classes = case["matched_labels"][kept] - 1
    regions.gt_masks = PolygonMasks([polygon for polygon, keep in zip(polygons(recorded), kept) if keep])
    pooled = heads.mask_pooler(maps, [regions.proposal_boxes])
    first = case["roi_feature_first"]
    cases.close("pooled regions", pooled[:, : first.shape[1]], first[kept])
    masks = regions.gt_masks.crop_and_resize(regions.proposal_boxes.tensor, case["mask_targets"].shape[-1])
    cases.equal("mask targets of training", masks, case["mask_targets"].bool())
    shares = visible_fraction(regions.gt_masks, regions.proposal_boxes.tensor, (height, width))
    cases.close("visible fractions of training", shares, case["mask_ratios"])
    with EventStorage():
        losses = heads._forward_mask(dict(zip(shapes, maps)), [regions])
    cases.close("losses", losses, {name: case[name] for name in ("loss_mask", "loss_maskiou")})
    with torch.no_grad():
        logits = select_classes(heads.mask_head.layers(pooled), regions.gt_classes)[:, None]
        overlaps = heads.maskiou_head(pooled, logits.sigmoid())
    cases.close("selected masks", logits.sigmoid(), case["selected_mask"][kept].float(), atol=1e-3, rtol=0)
    targets = select_classes(
        maskiou_targets(logits > 0, regions, weights[_HEAD + "maskiou.bias"].numel()), regions.gt_classes
    )
    cases.close("MaskIoU targets", targets, case["maskiou_targets"])
    predicted = select_classes(overlaps, regions.gt_classes)
    cases.close("MaskIoU of training", predicted, case["pred_maskiou_at_label"][kept])
    for loss in ("loss_mask", "loss_maskiou"):
        heads.zero_grad()
        losses[loss].backward(retain_graph=True)
        for name, want in case[f"grad_norms_{loss}"].items():
            gradient = heads.get_parameter(_own_name(name)).grad
            if want is None or gradient is None:
                cases.equal(f"gradient of {loss}, {name}", gradient, want)
            else:
                cases.close(f"gradient of {loss}, {name}", gradient.norm(), want, atol=1e-6, rtol=1e-3)


def _map(index: int, height: int, width: int) -> Tensor:
    drawn = np.random.RandomState(20 + index).standard_normal((1, 256, height, width))
    return torch.from_numpy(drawn.astype(np.float16).astype(np.float32))


def _own_name(name: str) -> str:
    """The parameter of the heads here; in the records the rows of the background have no gradient."""
    places = {
        "mask.predictor.conv5_mask.weight": "mask_head.deconv.weight",
        "mask.predictor.mask_fcn_logits.weight": "mask_head.predictor.weight",
    }
    if name.startswith("maskiou."):
        return "maskiou_head." + name.split(".", 2)[2]
    return places.get(name) or "mask_head." + name.split("feature_extractor.")[-1]


if __name__ == "__main__":
    main(check)
