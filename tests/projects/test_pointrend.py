"""PointRend: points by hand and by Detectron2's records, subdivision, names, weights, and what it combines with."""

from pathlib import Path

import pytest
import torch
from tolerances import PARITY, close

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import build_model
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
from densekit.ops.weights.layouts import find_layout
from densekit.projects.pointrend.losses import point_labels, point_loss
from densekit.projects.pointrend.semantic import margin_uncertainty

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recorded(reference_dir):
    return torch.load(reference_dir / "pointrend.pt")


@pytest.fixture
def replay(monkeypatch):
    """Gives torch.rand recorded numbers, in call order and checked for their shape."""

    def start(draws):
        queue = list(draws)

        def rand(*shape, **kwargs):
            draw = queue.pop(0)
            assert tuple(draw.shape) == shape
            return draw

        monkeypatch.setattr(torch, "rand", rand)
        return queue

    return start


def class_uncertainty(classes):
    return lambda logits: -select_classes(logits, classes)[:, None].abs()


def regions(boxes, per_image, gt_masks=None, classes=None, field="proposal_boxes", size=(64, 80)):
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


class TestRecordedFunctions:
    def test_sampling_of_training_points(self, recorded, replay):
        case = recorded["functions"]
        left = replay(case["rand_draws"])
        got = random_uncertain_points(
            case["coarse_logits"],
            class_uncertainty(case["classes"]),
            case["num_points"],
            oversample=case["oversample"],
            importance=case["importance"],
        )
        assert not left
        torch.testing.assert_close(got, case["point_coords"], **close(torch.float32))

    def test_grids_and_uncertainty(self, recorded):
        case = recorded["functions"]
        uncertainty = class_uncertainty(case["classes"])(case["coarse_logits"])
        torch.testing.assert_close(uncertainty, case["uncertainty"], **close(torch.float32))
        indices, coords = uncertain_grid_points(uncertainty, case["grid_indices"].shape[1])
        assert torch.equal(indices, case["grid_indices"])
        torch.testing.assert_close(coords, case["grid_coords"], **close(torch.float32))
        torch.testing.assert_close(regular_grid(1, 5), case["regular_grid"], **close(torch.float32))
        semantic = margin_uncertainty(case["semantic_logits"])
        torch.testing.assert_close(semantic, case["semantic_uncertainty"], **close(torch.float32))

    def test_maps_and_labels_at_points(self, recorded):
        case = recorded["functions"]
        boxes, points = case["boxes"], case["point_coords"]
        fine = sample_in_boxes(case["feature_maps"], case["scales"], boxes.split(case["boxes_per_image"]), points)
        torch.testing.assert_close(fine, case["fine_grained"], **PARITY)
        torch.testing.assert_close(points_in_image(boxes, points), case["coords_wrt_image"], **PARITY)
        instances = regions(boxes, case["boxes_per_image"], case["gt_masks"])
        labels = point_labels(instances, points)
        torch.testing.assert_close(labels, case["point_labels"], **PARITY)

    def test_loss(self, recorded):
        case = recorded["functions"]
        with EventStorage():
            plain = point_loss(case["point_logits"], case["classes"], case["point_labels"])
            ignoring = point_loss(case["point_logits"], case["classes"], case["point_labels_with_ignore"])
        assert plain.item() == pytest.approx(case["loss"], abs=1e-5)
        assert ignoring.item() == pytest.approx(case["loss_with_ignore"], abs=1e-5)


class TestRecordedHead:
    @pytest.fixture
    def head(self, recorded):
        cfg = load_config(str(ROOT / "configs/pointrend/pointrend_rcnn_R_50_FPN_1x_coco.yaml"))
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.POINT_HEAD.NUM_CLASSES = 5
        cfg.MODEL.ROI_MASK_HEAD.CONV_DIM, cfg.MODEL.ROI_MASK_HEAD.FC_DIM = 12, 32
        cfg.MODEL.POINT_HEAD.FC_DIM, cfg.MODEL.POINT_HEAD.TRAIN_NUM_POINTS = 24, 49
        head = build_mask_head(cfg, {"p2": ShapeSpec(channels=16, stride=4)})
        weights = {name: value.float() for name, value in recorded["instance"]["state_dict"].items()}
        head.load_state_dict(weights)
        return head

    def test_inference(self, recorded, head):
        case = recorded["instance"]
        detections = regions(case["boxes"], case["boxes_per_image"], classes=case["classes"], field="pred_boxes")
        head.eval()
        assert (head.start_resolution, head.subdivision_steps) == (case["init_resolution"], case["steps"])
        with torch.no_grad():
            coarse = head.represent({"p2": case["p2"]}, [x.pred_boxes for x in detections])
            out = head({"p2": case["p2"]}, detections)
        torch.testing.assert_close(coarse, case["coarse"], **PARITY)
        masks = torch.cat([x.pred_masks for x in out])
        want = case["mask_logits"].sigmoid()[:, None]
        assert masks.shape == want.shape
        assert (masks - want).abs().le(1e-4).float().mean() > 0.999
        assert ((masks > 0.5) == (want > 0.5)).float().mean() > 0.999

    def test_training(self, recorded, head, replay):
        case = recorded["instance"]
        instances = regions(case["boxes"], case["boxes_per_image"], case["gt_masks"], case["classes"])
        left = replay(case["rand_draws"])
        with EventStorage():
            losses = head.train()({"p2": case["p2"]}, instances)
        assert not left
        assert set(losses) == set(case["losses"])
        for name, want in case["losses"].items():
            assert losses[name].item() == pytest.approx(want, abs=1e-4), name
        sum(losses.values()).backward()
        for name, want in case["grad_norms"].items():
            assert head.get_parameter(name).grad.norm().item() == pytest.approx(want, rel=1e-3), name


class TestWeights:
    def test_old_names(self):
        cfg = load_config(str(ROOT / "configs/pointrend/pointrend_rcnn_R_50_FPN_1x_coco.yaml"))
        cfg.MODEL.DEVICE = "meta"
        names = [name for name in build_model(cfg).state_dict() if not name.startswith("pixel")]
        old = {}
        for k, name in enumerate(names):
            earlier = name.replace("mask_head.coarse_head.fc", "mask_coarse_head.coarse_mask_fc")
            earlier = earlier.replace("mask_head.coarse_head", "mask_coarse_head")
            old[earlier.replace("mask_head.point_head", "mask_point_head")] = torch.tensor(k)
        converted = find_layout(old).convert(old)
        assert {name: int(value) for name, value in converted.items()} == {name: k for k, name in enumerate(names)}
        with pytest.raises(ValueError, match=r"roi_heads\.mask_iou\.fc"):
            find_layout(old).convert(old | {"roi_heads.mask_iou.fc": torch.zeros(1)})

    def test_new_names_are_nobodys_layout(self, recorded):
        assert find_layout([f"roi_heads.mask_head.{name}" for name in recorded["instance"]["state_dict"]]) is None
