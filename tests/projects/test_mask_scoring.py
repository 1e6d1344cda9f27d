"""Mask Scoring R-CNN: targets and loss by hand and by the authors' records, weights, scores in the evaluation."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tolerances import PARITY, close

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import build_model, build_roi_heads
from densekit.d2.modeling.poolers import ROIPooler
from densekit.d2.structures import Boxes, Instances, PolygonMasks
from densekit.d2.utils.events import EventStorage
from densekit.modeling.mask_logits import select_classes
from densekit.ops.weights.layouts import find_layout
from densekit.projects.mask_scoring.maskiou_head import MaskIoUHead, mask_iou_loss
from densekit.projects.mask_scoring.targets import maskiou_targets
from densekit.projects.mask_scoring.visible_area import visible_fraction

ROOT = Path(__file__).resolve().parents[2]
SIZE = (64, 80)
INPUTS = ("selected", "product", "all", "high_res")


@pytest.fixture(scope="module")
def recorded(reference_dir):
    return torch.load(reference_dir / "maskscoring.pt")


def recorded_polygons(recorded) -> list[list[np.ndarray]]:
    polygons = recorded["mask_targets"]["polygons"]
    return [[np.array(p) for p in polygons[k]] for k in recorded["mask_targets"]["gt_index"]]


@pytest.fixture(scope="module")
def authors_weights(recorded, reference_dir):
    """The full-size weights under densekit's names."""
    sys.path.insert(0, str(reference_dir))
    try:
        from detfill import det_tensor
    finally:
        sys.path.pop(0)
    weights = {name: det_tensor(name, shape) for name, shape in recorded["manifest"].items()}
    for name, factor in recorded["post_fill_scaling"].items():
        weights[name] *= factor
    return find_layout(weights).convert(weights)


def part(weights, prefix):
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


class TestRecords:
    def test_visible_fractions(self, recorded):
        case = recorded["mask_targets"]
        masks = PolygonMasks(recorded_polygons(recorded))
        shares = visible_fraction(masks, case["proposals"], case["image_wh"][::-1])
        torch.testing.assert_close(shares, case["ratios"], atol=1e-6, rtol=0)
        targets = masks.crop_and_resize(case["proposals"], 28)
        assert torch.equal(targets, case["targets"].bool())

    def test_loss(self, recorded):
        case = recorded["l2_loss"]
        loss = mask_iou_loss(case["input"], case["target"], case["target"] > 0)
        assert loss.item() == pytest.approx(case["loss"], abs=1e-6)
        nothing = torch.zeros_like(case["target"])
        assert mask_iou_loss(case["input"], nothing, nothing > 0).item() == case["all_zero"]

    def test_head(self, recorded, authors_weights):
        case = recorded["maskiou_head_eval"]
        head = MaskIoUHead(in_channels=256, resolution=14, num_classes=80, mask_channels=80)
        head.load_state_dict(part(authors_weights, "roi_heads.maskiou_head."))
        feature = np.random.RandomState(31).standard_normal((5, 256, 14, 14)).astype(np.float16)
        mask = np.random.RandomState(32).uniform(0, 1, (5, 1, 28, 28)).astype(np.float32)
        with torch.no_grad():
            overlaps = head(torch.from_numpy(feature).float(), torch.from_numpy(mask))
        torch.testing.assert_close(overlaps, case["pred_maskiou"][:, 1:], **PARITY)
        scores = case["scores"] * select_classes(overlaps, case["labels"] - 1)
        torch.testing.assert_close(scores, case["mask_scores"], **PARITY)

    def test_training_heads_full_size(self, recorded, authors_weights):
        case, height, width = recorded["train_heads"], 128, 160
        maps = [
            torch.from_numpy(
                np.random.RandomState(20 + i)
                .standard_normal((1, 256, height >> (2 + i), width >> (2 + i)))
                .astype(np.float16)
                .astype(np.float32)
            )
            for i in range(4)
        ]
        cfg = load_config(str(ROOT / "configs/mask_scoring/mask_scoring_R_50_FPN_1x_authors.yaml"))
        shapes = {f"p{k}": ShapeSpec(channels=256, stride=2**k) for k in range(2, 7)}
        heads = build_roi_heads(cfg, shapes)
        assert not heads.load_state_dict(part(authors_weights, "roi_heads."), strict=False).missing_keys

        kept = case["matched_labels"] > 0
        regions = Instances((height, width))
        regions.proposal_boxes = Boxes(case["proposals"][:8][kept])
        regions.gt_classes = case["matched_labels"][kept] - 1
        regions.gt_masks = PolygonMasks([p for p, keep in zip(recorded_polygons(recorded), kept) if keep])
        features = dict(zip(shapes, maps))
        assert isinstance(heads.mask_pooler, ROIPooler)
        pooled = heads.mask_pooler(maps, [regions.proposal_boxes])
        torch.testing.assert_close(pooled[:, :4], case["roi_feature_first"][kept], **PARITY)
        with EventStorage():
            losses = heads._forward_mask(features, [regions])
        assert losses["loss_mask"].item() == pytest.approx(case["loss_mask"], abs=1e-4)
        assert losses["loss_maskiou"].item() == pytest.approx(case["loss_maskiou"], abs=1e-4)
        with torch.no_grad():
            logits = select_classes(heads.mask_head.layers(pooled), regions.gt_classes)[:, None]
            overlaps = heads.maskiou_head(pooled, logits.sigmoid())
        torch.testing.assert_close(logits.sigmoid(), case["selected_mask"][kept].float(), atol=1e-3, rtol=0)
        targets = maskiou_targets(logits > 0, regions, 80)
        torch.testing.assert_close(select_classes(targets, regions.gt_classes), case["maskiou_targets"], **PARITY)
        torch.testing.assert_close(
            select_classes(overlaps, regions.gt_classes), case["pred_maskiou_at_label"][kept], **PARITY
        )
        for loss in ("loss_mask", "loss_maskiou"):
            heads.zero_grad()
            losses[loss].backward(retain_graph=True)
            for name, want in case[f"grad_norms_{loss}"].items():
                _check_gradient(heads, name, want)

    def test_manifest_is_consumed(self, recorded, authors_weights):
        cfg = load_config(str(ROOT / "configs/mask_scoring/mask_scoring_R_50_FPN_1x_authors.yaml"))
        cfg.MODEL.DEVICE = "meta"  # shapes without values
        shapes = {name: value.shape for name, value in authors_weights.items()}
        with torch.device("meta"):
            wanted = {name: value.shape for name, value in build_model(cfg).state_dict().items()}
        assert {name: shape for name, shape in wanted.items() if not name.startswith("pixel_")} == shapes


def _check_gradient(heads, name: str, want: float | None) -> None:
    """Compares the norm of a gradient; in the records the rows of the background have none."""
    places = {"mask.predictor.conv5_mask.weight": "mask_head.deconv.weight"}
    places["mask.predictor.mask_fcn_logits.weight"] = "mask_head.predictor.weight"
    own = places.get(name) or "mask_head." + name.split("feature_extractor.")[-1]
    if name.startswith("maskiou."):
        own = "maskiou_head." + name.split(".", 2)[2]
    gradient = heads.get_parameter(own).grad
    norm = None if gradient is None else gradient.norm().item()
    assert norm == (None if want is None else pytest.approx(want, rel=1e-3)), name


class TestWeights:
    def test_background_moves_and_norms_are_exact(self, recorded, reference_dir):
        names = dict(recorded["manifest"])
        weights = {name: torch.rand(shape[:2]) for name, shape in names.items() if len(shape)}
        converted = find_layout(weights).convert(weights)
        scores = weights["roi_heads.box.predictor.cls_score.bias"]
        assert torch.equal(converted["roi_heads.box_predictor.cls_score.bias"], torch.cat([scores[1:], scores[:1]]))
        boxes = weights["roi_heads.box.predictor.bbox_pred.bias"]
        assert torch.equal(converted["roi_heads.box_predictor.bbox_pred.bias"], boxes[4:])
        variance = converted["backbone.bottom_up.res2.0.shortcut.norm.running_var"]
        old = weights["backbone.body.layer1.0.downsample.1.running_var"]
        torch.testing.assert_close((variance + 1e-5).rsqrt(), old.rsqrt(), **close(torch.float32))

    def test_unknown_names_are_listed(self, recorded):
        weights = {name: torch.zeros(4, 1) for name in recorded["manifest"]} | {
            "roi_heads.relation.fc.weight": torch.zeros(1)
        }
        with pytest.raises(ValueError, match=r"roi_heads\.relation\.fc\.weight"):
            find_layout(weights).convert(weights)
