"""Checks recorded outputs of Detectron2's PointRend: ``python -m tests.projects.pointrend.recorded FILE``.

A file holds ``functions`` and ``instance``, a mask head with its losses; random draws were recorded in call order.
Sizes are read from the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling.roi_heads import build_mask_head
from densekit.d2.structures import BitMasks, Boxes, Instances
from densekit.d2.utils.events import EventStorage
from densekit.layers.points import (
    points_in_image,
    random_uncertain_points,
    regular_grid,
    sample_in_boxes,
    uncertain_grid_points,
)
from densekit.modeling.mask_logits import select_classes
from densekit.projects.pointrend.losses import point_labels, point_loss
from densekit.projects.pointrend.point_semantic_head import margin_uncertainty
from tests.recorded_cases import Cases, main

CONFIG = str(Path(__file__).resolve().parents[3] / "configs/pointrend/pointrend_rcnn_R_50_FPN_1x_coco.yaml")
EXACT = {"atol": 1e-5, "rtol": 1e-5}


def class_uncertainty(classes: Tensor):
    return lambda logits: -select_classes(logits, classes)[:, None].abs()


def regions(boxes, per_image, gt_masks=None, classes=None, field="proposal_boxes", size=(64, 80)) -> list[Instances]:
    images = []
    for k, own in enumerate(boxes.split(per_image)):
        x = Instances(size)
        x.set(field, Boxes(own))
        if classes is not None:
            x.set("gt_classes" if field == "proposal_boxes" else "pred_classes", classes.split(per_image)[k])
        if gt_masks is not None:
            x.gt_masks = BitMasks(gt_masks.split(per_image)[k])
        images.append(x)
    return images


class Draws:
    """Gives ``torch.rand`` recorded numbers, in call order and checked for their shape."""

    def __init__(self, draws: list[Tensor]) -> None:
        self.left = list(draws)

    def __call__(self, *size: Any, **options: Any) -> Tensor:
        shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)
        if not self.left or tuple(self.left[0].shape) != shape:
            raise ValueError(
                f"torch.rand{shape} was not recorded here; next is {[tuple(x.shape) for x in self.left][:1]}."
            )
        return self.left.pop(0)

    def __enter__(self) -> "Draws":
        self._patch = mock.patch("torch.rand", self)
        self._patch.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._patch.stop()


def check(recorded: Mapping[str, Any], cases: Cases) -> None:
    functions, instance = recorded["functions"], recorded["instance"]
    _points(functions, cases)
    _at_points(functions, cases)
    _losses(functions, cases)
    _inference(instance, cases)
    _training(instance, cases)
    cases.not_checked(set(recorded) - {"about", "functions", "instance"}, "a kind of case that is not known")


def _points(case: Mapping[str, Any], cases: Cases) -> None:
    uncertainty = class_uncertainty(case["classes"])
    options = {"oversample": case["oversample"], "importance": case["importance"]}
    with Draws(case["rand_draws"]) as draws:
        got = random_uncertain_points(case["coarse_logits"], uncertainty, case["num_points"], **options)
    cases.equal("draws that were left", len(draws.left), 0)
    cases.close("points of training", got, case["point_coords"], **EXACT)
    found = uncertainty(case["coarse_logits"])
    cases.close("uncertainty", found, case["uncertainty"], **EXACT)
    indices, coords = uncertain_grid_points(found, case["grid_indices"].shape[1])
    cases.equal("indices of the grid", indices, case["grid_indices"])
    cases.close("points of the grid", coords, case["grid_coords"], **EXACT)
    images, cells = case["regular_grid"].shape[:2]
    cases.close("regular grid", regular_grid(images, int(cells**0.5)), case["regular_grid"], **EXACT)
    cases.close(
        "semantic uncertainty", margin_uncertainty(case["semantic_logits"]), case["semantic_uncertainty"], **EXACT
    )


def _at_points(case: Mapping[str, Any], cases: Cases) -> None:
    boxes, points, per_image = case["boxes"], case["point_coords"], case["boxes_per_image"]
    fine = sample_in_boxes(case["feature_maps"], case["scales"], boxes.split(per_image), points)
    cases.close("fine-grained features", fine.transpose(1, 2), case["fine_grained"])
    cases.close("points in the image", points_in_image(boxes, points), case["coords_wrt_image"])
    size = tuple(case["gt_masks"].shape[1:])
    labels = point_labels(regions(boxes, per_image, case["gt_masks"], size=size), points)
    cases.close("labels of points", labels, case["point_labels"])


def _losses(case: Mapping[str, Any], cases: Cases) -> None:
    with EventStorage():
        plain = point_loss(case["point_logits"], case["classes"], case["point_labels"])
        ignoring = point_loss(case["point_logits"], case["classes"], case["point_labels_with_ignore"])
    cases.close("loss", plain, case["loss"], **EXACT)
    cases.close("loss with ignored points", ignoring, case["loss_with_ignore"], **EXACT)


def _head(case: Mapping[str, Any]) -> torch.nn.Module:
    """The head of the record; the widths are its weights'."""
    weights = {name: value.float() for name, value in case["state_dict"].items()}
    draws = case["rand_draws"]
    cfg = load_config(CONFIG)
    classes = weights["point_head.predictor.weight"].shape[0]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.POINT_HEAD.NUM_CLASSES = classes
    cfg.MODEL.POINT_HEAD.FC_DIM = weights["point_head.fc1.weight"].shape[0]
    cfg.MODEL.POINT_HEAD.NUM_FC = sum(name.startswith("point_head.fc") for name in weights) // 2
    cfg.MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS = case["num_points"]
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = weights["coarse_head.reduce_spatial_dim_conv.weight"].shape[0]
    cfg.MODEL.ROI_MASK_HEAD.FC_DIM = weights["coarse_head.fc1.weight"].shape[0]
    cfg.MODEL.ROI_MASK_HEAD.NUM_FC = sum(name.startswith("coarse_head.fc") for name in weights) // 2
    # Points drawn before the uncertain ones are chosen, of which the file says how many there are.
    cfg.MODEL.POINT_HEAD.TRAIN_NUM_POINTS = draws[0].shape[1] // cfg.MODEL.POINT_HEAD.OVERSAMPLE_RATIO
    head = build_mask_head(cfg, {"p2": ShapeSpec(channels=case["p2"].shape[1], stride=4)})
    head.load_state_dict(weights)
    return head


def _frame(case: Mapping[str, Any]) -> tuple[int, int]:
    return tuple(case["gt_masks"].shape[1:])


def _inference(case: Mapping[str, Any], cases: Cases) -> None:
    head = _head(case).eval()
    detections = regions(
        case["boxes"], case["boxes_per_image"], classes=case["classes"], field="pred_boxes", size=_frame(case)
    )
    found = (head.start_resolution, head.subdivision_steps)
    cases.equal("resolutions", found, (case["init_resolution"], case["steps"]))
    with torch.no_grad():
        coarse = head.represent({"p2": case["p2"]}, [x.pred_boxes for x in detections])
        out = head({"p2": case["p2"]}, detections)
    cases.close("coarse masks", coarse, case["coarse"])
    masks, want = torch.cat([x.pred_masks for x in out]), case["mask_logits"].sigmoid()[:, None]
    # Which points are refined depends on near ties: all but a few pixels agree.
    cases.agreement("probabilities within 1e-4", (masks - want).abs() <= 1e-4, torch.ones_like(want, dtype=torch.bool))
    cases.agreement("masks", masks > 0.5, want > 0.5)


def _training(case: Mapping[str, Any], cases: Cases) -> None:
    head = _head(case).train()
    instances = regions(case["boxes"], case["boxes_per_image"], case["gt_masks"], case["classes"], size=_frame(case))
    with Draws(case["rand_draws"]) as draws, EventStorage():
        losses = head({"p2": case["p2"]}, instances)
    cases.equal("draws of training that were left", len(draws.left), 0)
    cases.close("losses of training", losses, case["losses"])
    sum(losses.values()).backward()
    for name, want in case["grad_norms"].items():
        cases.close(f"gradient of {name}", head.get_parameter(name).grad.norm(), want, atol=1e-6, rtol=1e-3)


if __name__ == "__main__":
    main(check)
