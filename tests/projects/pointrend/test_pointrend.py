"""PointRend: points by hand and by Detectron2's records, subdivision, names, weights, and what it combines with."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import build_model
from densekit.d2.modeling.meta_arch.semantic_seg import build_sem_seg_head
from densekit.d2.modeling.roi_heads import build_mask_head
from densekit.d2.structures import PolygonMasks
from densekit.d2.utils.events import EventStorage
from densekit.layers.points import (
    bilinear_taps,
    point_sample,
    random_uncertain_points,
    sample_bitmaps,
    sample_in_boxes,
)
from densekit.modeling.mask_logits import select_classes
from densekit.projects.pointrend.losses import point_labels
from densekit.weights.parts import find_layout
from tests.projects.pointrend.recorded import check, regions
from tests.recorded_cases import assert_agrees
from tests.tolerances import close

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def recorded(reference_dir):
    return torch.load(reference_dir / "pointrend.pt")


def test_recorded(reference_dir):
    assert_agrees(check, reference_dir / "pointrend.pt")


def small_head(*options, name="pointrend_rcnn_R_50_FPN_1x_coco", channels=6):
    path = ROOT / "configs/pointrend" / f"{name}.yaml"
    sizes = ["MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.POINT_HEAD.NUM_CLASSES", 3, "MODEL.ROI_MASK_HEAD.CONV_DIM", 4]
    sizes += ["MODEL.ROI_MASK_HEAD.FC_DIM", 8, "MODEL.POINT_HEAD.FC_DIM", 5, "MODEL.POINT_HEAD.TRAIN_NUM_POINTS", 9]
    cfg = load_config(str(path), [*map(str, sizes), *map(str, options)])
    head = build_mask_head(cfg, {f"p{k}": ShapeSpec(channels=channels, stride=2**k) for k in range(2, 6)})
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.3)
    return head


def maps(height=64, width=80):
    return {f"p{k}": torch.randn(2, 6, height // 2**k, width // 2**k) for k in range(2, 6)}


BOXES = torch.tensor([[4.0, 6.0, 40.0, 60.0], [-3.0, 10.5, 90.0, 30.0], [50.0, 2.0, 79.0, 63.0]])
CLASSES = torch.tensor([2, 0, 1])
KINDS = {
    "standard": ("pointrend_rcnn_R_50_FPN_1x_coco", ()),
    "agnostic": ("pointrend_rcnn_R_50_FPN_1x_coco", ("MODEL.POINT_HEAD.CLS_AGNOSTIC_MASK", True)),
    "first layer only": ("pointrend_rcnn_R_50_FPN_1x_coco", ("MODEL.POINT_HEAD.COARSE_PRED_EACH_LAYER", False)),
    "two maps": ("pointrend_rcnn_R_50_FPN_1x_coco", ("MODEL.POINT_HEAD.IN_FEATURES", "('p2', 'p3')")),
    "on a mask head": (
        "pointrend_rcnn_R_50_FPN_1x_coco",
        ("MODEL.POINT_HEAD.COARSE_MASK_HEAD_NAME", "MaskRCNNConvUpsampleHead"),
    ),
    "no points": ("pointrend_rcnn_R_50_FPN_1x_coco", ("MODEL.ROI_MASK_HEAD.POINT_HEAD_ON", False)),
    "implicit": ("implicit_pointrend_R_50_FPN_1x_coco", ()),
    "implicit, no positions": (
        "implicit_pointrend_R_50_FPN_1x_coco",
        ("MODEL.IMPLICIT_POINTREND.POS_ENC_ENABLED", False),
    ),
}


@pytest.fixture(params=KINDS)
def any_head(request):
    name, options = KINDS[request.param]
    return small_head(*options, name=name)


class TestPoints:
    def test_taps_sample_as_grid_sample_does(self):
        values = torch.randn(3, 4, 9, 130, dtype=torch.float64)
        points = torch.rand(3, 50, 2, dtype=torch.float64) * 1.4 - 0.2  # beyond the border too
        rows = values.permute(0, 2, 3, 1).flatten(0, 2)
        sampled = bilinear_taps(points, 9, 130).sum(rows)
        torch.testing.assert_close(sampled.transpose(1, 2), point_sample(values, points), **close(torch.float64))
        shifted = bilinear_taps(points, 9, 130).sum(rows, torch.arange(4.0, dtype=torch.float64))
        torch.testing.assert_close(shifted - sampled, torch.arange(4.0).double().expand_as(sampled))

    def test_gradient_of_sampling_in_boxes(self):
        level = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
        points = torch.rand(3, 4, 2, dtype=torch.float64)
        boxes = [BOXES[:1].double(), BOXES[1:].double()]
        assert torch.autograd.gradcheck(lambda x: sample_in_boxes([x], [1 / 16], boxes, points), level)

    def test_bitmaps(self):
        bits = torch.rand(3, 12, 17) > 0.5
        points = torch.rand(3, 40, 2) * 1.2 - 0.1
        want = point_sample(bits[:, None].float(), points)[:, 0]
        torch.testing.assert_close(sample_bitmaps(bits, points), want, **close(torch.float32))

    def test_a_point_between_a_yes_and_a_no_is_the_most_uncertain(self):
        logits = torch.tensor([[[[-9.0, 9.0]]]])
        points = random_uncertain_points(logits, lambda x: -x.abs(), 1, oversample=500, importance=1.0)
        assert (points[0, 0, 0] - 0.5).abs() < 0.02

    @pytest.mark.parametrize("bad", [{"oversample": 0.5, "importance": 0.5}, {"oversample": 3, "importance": 1.5}])
    def test_impossible_shares_are_refused(self, bad):
        with pytest.raises(ValueError, match="OVERSAMPLE_RATIO"):
            random_uncertain_points(torch.zeros(1, 1, 2, 2), lambda x: x, 4, **bad)


class TestHeads:
    def test_one_class_is_what_all_classes_say(self, any_head):
        detections = regions(BOXES, [2, 1], classes=CLASSES, field="pred_boxes")
        features, boxes = maps(), [x.pred_boxes for x in detections]
        with torch.no_grad():
            representation = any_head.eval().represent(features, boxes)
            every = any_head.grid_logits(features, representation, boxes)
            own = any_head.grid_logits(features, representation, boxes, CLASSES)
        torch.testing.assert_close(own[:, 0], select_classes(every, CLASSES), atol=1e-4, rtol=1e-4)

    def test_subdivision_predicts_the_uncertain_points(self):
        """By a loop over regions that knows nothing of the head's own."""
        head = small_head("MODEL.POINT_HEAD.SUBDIVISION_STEPS", 2, "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS", 30).eval()
        detections = regions(BOXES, [2, 1], classes=CLASSES, field="pred_boxes")
        features, boxes = maps(), [x.pred_boxes for x in detections]
        with torch.no_grad():
            coarse = head.represent(features, boxes)
            got = head.subdivide(features, coarse, detections)
            masks = head.grid_logits(features, coarse, boxes)
            for _ in range(2):
                masks = torch.nn.functional.interpolate(masks, scale_factor=2, mode="bilinear", align_corners=False)
                side = masks.shape[-1]
                cells = torch.stack([m[c].abs().flatten().argsort()[:30] for m, c in zip(masks, CLASSES)])
                points = torch.stack([cells % side + 0.5, cells // side + 0.5], dim=2) / side
                anew = head.predict_points(features, coarse, boxes, points)
                for mask, cell, values in zip(masks, cells, anew):
                    mask.flatten(1)[:, cell] = values
        torch.testing.assert_close(got[:, 0], select_classes(masks, CLASSES), atol=1e-4, rtol=1e-4)

    def test_training_reaches_every_parameter_and_the_maps(self, any_head):
        features = {name: value.requires_grad_() for name, value in maps().items()}
        with EventStorage():
            losses = any_head.train()(features, regions(BOXES, [2, 1], torch.rand(3, 64, 80) > 0.5, CLASSES))
        assert all(torch.isfinite(loss) for loss in losses.values())
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in any_head.parameters())
        assert features["p2"].grad.abs().sum() > 0

    def test_empty_images(self, any_head):
        features = {name: value.requires_grad_() for name, value in maps().items()}
        nothing = [x[torch.zeros(0, dtype=torch.int64)] for x in regions(BOXES, [2, 1], classes=CLASSES)]
        with EventStorage():
            losses = any_head.train()(features, nothing)
        total = sum(losses.values())
        total.backward()
        assert total.item() == 0 and features["p2"].grad.abs().sum() == 0
        found = any_head.eval()(features, regions(BOXES[:0], [0, 0], classes=CLASSES[:0], field="pred_boxes"))
        assert all(len(x.pred_masks) == 0 for x in found)

    def test_images_do_not_mix(self, any_head):
        any_head.eval()
        features = maps()
        with torch.no_grad():
            both = any_head(features, regions(BOXES, [2, 1], classes=CLASSES, field="pred_boxes"))
            last = {name: value[1:] for name, value in features.items()}
            alone = any_head(last, regions(BOXES[2:], [1], classes=CLASSES[2:], field="pred_boxes"))
        torch.testing.assert_close(both[1].pred_masks, alone[0].pred_masks, atol=1e-4, rtol=1e-4)

    def test_half_precision(self, any_head):
        features = {name: value.requires_grad_() for name, value in maps().items()}
        with EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16):
            losses = any_head.train()(features, regions(BOXES, [2, 1], torch.rand(3, 64, 80) > 0.5, CLASSES))
            sum(losses.values()).backward()
            any_head.eval()
            with torch.no_grad():
                found = any_head(features, regions(BOXES, [2, 1], classes=CLASSES, field="pred_boxes"))
        assert all(torch.isfinite(x.pred_masks).all() for x in found)

    def test_bad_settings_name_their_keys(self):
        with pytest.raises(ValueError, match=r"POINT_HEAD.NUM_CLASSES is 4 and MODEL.ROI_HEADS.NUM_CLASSES is 3"):
            small_head("MODEL.POINT_HEAD.NUM_CLASSES", 4)
        with pytest.raises(ValueError, match="784"):
            small_head("MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS", 785, name="implicit_pointrend_R_50_FPN_1x_coco")
        polygons = regions(BOXES, [3], classes=CLASSES)
        polygons[0].gt_masks = PolygonMasks([[[1.0, 1, 9, 1, 9, 9]]] * 3)
        with pytest.raises(ValueError, match=r"INPUT.MASK_FORMAT bitmask"):
            point_labels(polygons, torch.rand(3, 5, 2))


class TestSemantic:
    def head(self, classes=4):
        path = ROOT / "configs/pointrend/pointrend_semantic_R_18_FPN_streets.yaml"
        opts = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(classes), "MODEL.POINT_HEAD.NUM_CLASSES", str(classes)]
        opts += ["MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS", "64"]
        cfg = load_config(str(path), opts)
        return build_sem_seg_head(cfg, {f"p{k}": ShapeSpec(channels=6, stride=2**k) for k in range(2, 6)})

    def test_one_class_has_no_margin(self):
        with pytest.raises(ValueError, match=r"SEM_SEG_HEAD.NUM_CLASSES is 1; .* background a class of its own"):
            self.head(1)

    def test_it_changes_the_uncertain_pixels_only(self):
        head, features = self.head().eval(), maps(height=64, width=96)
        with torch.no_grad():
            coarse = head.coarse_sem_seg_head.layers(features)
            got, _ = head(features)
        plain = coarse
        for _ in range(2):
            plain = torch.nn.functional.interpolate(plain, scale_factor=2, mode="bilinear", align_corners=False)
        assert got.shape == plain.shape == (2, 4, 64, 96)
        # Each of two steps changes 64 points; those of the first are doubled once more and then reach 4 x 4 pixels.
        assert 0 < (got - plain).abs().gt(1e-4).any(dim=1).sum(dim=(1, 2)).max() <= 64 + 64 * 16

    @pytest.mark.parametrize("steps", [0, 1, 3])
    def test_scores_and_labels_keep_their_places_with_any_number_of_steps(self, steps):
        """Images are cut out of the scores by their pixels, and points find their labels, at the images' own scale."""
        head, features = self.head(), maps(height=64, width=96)
        head.subdivision_num_points = 1
        labels = torch.randint(0, 4, (2, 64, 96))

        def run():
            torch.manual_seed(0)
            loss = head.train()(features, labels)[1]["loss_sem_seg_point"]
            with torch.no_grad():
                return loss, head.eval()(features)[0]

        usual_loss, usual = run()
        head.subdivision_steps = steps
        loss, scores = run()
        assert torch.equal(loss, usual_loss)
        assert scores.shape == usual.shape == (2, 4, 64, 96)
        centre = (slice(None), slice(None), slice(8, -8), slice(8, -8))
        assert (scores[centre] - usual[centre]).abs().median() < 0.1 * usual.std()
        if steps == 0:
            coarse = head.coarse_sem_seg_head.layers(features)
            assert torch.equal(scores, F.interpolate(coarse, scale_factor=4, mode="bilinear", align_corners=False))

    def test_ignored_pixels_do_not_count(self):
        head, features = self.head().train(), maps(height=64, width=96)
        labels = torch.full((2, 64, 96), 255)
        labels[:, :32] = 1
        torch.manual_seed(0)
        _, before = head(features, labels)
        assert set(before) == {"loss_sem_seg", "loss_sem_seg_point"}
        head.point_head.predictor.bias.data[1] += 100
        torch.manual_seed(0)
        assert head(features, labels)[1]["loss_sem_seg_point"] < 1e-3 < before["loss_sem_seg_point"]


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


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ("pointrend/pointrend_rcnn_R_50_FPN_1x_coco.yaml", "MODEL.ROI_HEADS.NUM_CLASSES"),
        ("pointrend/pointrend_semantic_R_101_FPN_1x_cityscapes.yaml", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", None),
    ],
)
def test_the_point_head_counts_the_classes_it_refines(config, key):
    from densekit.data.class_counts import count_keys

    keys = count_keys(load_config(str(ROOT / "configs" / config)))
    assert keys.get("MODEL.POINT_HEAD.NUM_CLASSES") == (key and keys[key])
