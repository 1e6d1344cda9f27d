"""Mask Scoring R-CNN: targets and loss by hand and by the authors' records, weights, scores in the evaluation."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from PIL import Image

from densekit.cli.arguments import parse_arguments
from densekit.cli.train import run_options
from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import build_model, build_roi_heads
from densekit.d2.structures import BitMasks, Boxes, BoxMode, ImageList, Instances, PolygonMasks
from densekit.d2.utils.events import EventStorage
from densekit.data import register_coco_instances
from densekit.data.ground_truth import GroundTruth
from densekit.data.mapper import MAPPERS
from densekit.engine import run
from densekit.evaluation.coco_metrics import evaluate_coco
from densekit.evaluation.predictions import instances_to_coco_json
from densekit.modeling.mask_logits import check_gives_logits
from densekit.projects.mask_scoring.calibration import correlation, main, mask_aps, true_overlaps
from densekit.projects.mask_scoring.maskiou_head import MaskIoUHead, mask_iou
from densekit.projects.mask_scoring.targets import ImageObjects, best_overlaps, maskiou_targets
from densekit.projects.mask_scoring.visible_area import visible_fraction
from densekit.weights.parts import find_layout, rename_part
from tests.projects.mask_scoring.recorded import check
from tests.recorded_cases import assert_agrees
from tests.tolerances import close

ROOT = Path(__file__).resolve().parents[3]
SIZE = (64, 80)
INPUTS = ("selected", "product", "all", "high_res")


@pytest.fixture(scope="module")
def recorded(reference_dir):
    return torch.load(reference_dir / "maskscoring.pt")


def test_recorded(reference_dir):
    assert_agrees(check, reference_dir / "maskscoring.pt")


class TestWeights:
    def test_background_moves_and_norms_are_exact(self, recorded):
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

    def test_mmdetections_head_fits(self):
        names = [f"convs.{k}.weight" for k in range(4)] + [f"fcs.{k}.bias" for k in range(2)] + ["fc_mask_iou.weight"]
        converted = rename_part("mmdetection", "mask_iou_head", {name: torch.zeros(1) for name in names})
        head = MaskIoUHead(in_channels=2, resolution=4, num_classes=3, mask_channels=3, conv_dim=2, fc_dim=2)
        assert len(converted) == len(names) and set(converted) <= set(head.state_dict())

    def test_unknown_names_are_listed(self, recorded):
        weights = {name: torch.zeros(4, 1) for name in recorded["manifest"]} | {
            "roi_heads.relation.fc.weight": torch.zeros(1)
        }
        with pytest.raises(ValueError, match=r"roi_heads\.relation\.fc\.weight"):
            find_layout(weights).convert(weights)


def heads(mask_input="selected", target="selected", mask_head="MaskRCNNConvUpsampleHead", *options):
    """Small region heads on p2 to p5, and their config."""
    sizes = {
        "MODEL.ROI_HEADS.NUM_CLASSES": 3,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 8,
        "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
        "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
        "MODEL.ROI_MASK_HEAD.NAME": mask_head,
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 6,
        "MODEL.MASK_SCORING.CONV_DIM": 4,
        "MODEL.MASK_SCORING.FC_DIM": 8,
        "MODEL.MASK_SCORING.INPUT": mask_input,
        "MODEL.MASK_SCORING.TARGET": target,
        "MODEL.DEVICE": "cpu",
    }
    opts = [str(word) for pair in sizes.items() for word in pair] + [str(word) for word in options]
    cfg = load_config(str(ROOT / "configs/mask_scoring/mask_scoring_R_50_FPN_1x.yaml"), opts)
    return build_roi_heads(cfg, {f"p{k}": ShapeSpec(channels=8, stride=2**k) for k in range(2, 6)})


POINTREND = (
    "PointRendHead",
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE",
    "",
    "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON",
    True,
    "MODEL.POINT_HEAD.NUM_CLASSES",
    3,
    "MODEL.POINT_HEAD.FC_DIM",
    5,
    "MODEL.ROI_MASK_HEAD.FC_DIM",
    8,
)


def features():
    return {f"p{k}": torch.randn(2, 8, SIZE[0] // 2**k, SIZE[1] // 2**k) for k in range(2, 6)}


def truth(bitmaps=True):
    """Two objects of classes 0 and 2 in the first image, none in the second."""
    x = Instances(SIZE)
    x.gt_boxes = Boxes(torch.tensor([[10.0, 8.0, 50.0, 56.0], [30.0, 20.0, 76.0, 60.0]]))
    x.gt_classes = torch.tensor([0, 2])
    corners = [[np.array([a, b, c, b, c, d, a, d])] for a, b, c, d in x.gt_boxes.tensor.tolist()]
    x.gt_masks = PolygonMasks(corners)
    if bitmaps:
        x.gt_masks = BitMasks.from_polygon_masks(x.gt_masks, *SIZE)
    nothing = Instances(SIZE)
    nothing.gt_boxes, nothing.gt_classes = Boxes(torch.zeros(0, 4)), torch.zeros(0, dtype=torch.int64)
    nothing.gt_masks = x.gt_masks[torch.zeros(0, dtype=torch.int64)]
    return [x, nothing]


def proposals():
    found = []
    for _ in range(2):
        x = Instances(SIZE)
        x.proposal_boxes = Boxes(
            torch.tensor([[12.0, 9.0, 52.0, 58.0], [28.0, 18.0, 70.0, 60.0], [0.0, 0.0, 9.0, 9.0]])
        )
        x.objectness_logits = torch.zeros(3)
        found.append(x)
    return found


def corners_of(box: list[int]) -> list[int]:
    """The polygon of an xywh box."""
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


IMAGES = ImageList(torch.zeros(2, 3, *SIZE), [SIZE, SIZE])


class TestOverlap:
    def test_by_hand(self):
        truth_inside = torch.zeros(1, 4, 4, dtype=torch.bool)
        truth_inside[0, :2] = True  # 8 cells, which are half of the object
        predicted = torch.zeros(1, 4, 4, dtype=torch.bool)
        predicted[0, :, :3] = True  # 12 cells, of which 6 are right
        assert mask_iou(predicted, truth_inside, torch.tensor([0.5])).item() == pytest.approx(6 / (12 + 16 - 6))
        assert mask_iou(predicted, ~truth_inside & False, torch.tensor([0.0])).item() == 0

    def test_bitmaps_are_measured_to_the_fraction_of_a_pixel(self):
        bits = torch.zeros(2, 10, 12, dtype=torch.bool)
        bits[:, 2:6, 3:9] = True  # 24 pixels
        boxes = torch.tensor([[3.5, 2.0, 5.0, 4.25], [-4.0, -4.0, 30.0, 30.0]])
        shares = visible_fraction(BitMasks(bits), boxes, (10, 12))
        torch.testing.assert_close(shares, torch.tensor([1.5 * 2.25 / 24, 1.0]))
        assert visible_fraction(BitMasks(bits & False), boxes, (10, 12)).tolist() == [0, 0]

    def test_polygons_and_their_bitmaps_agree(self):
        boxes = torch.tensor([[12.0, 9.0, 52.0, 58.0], [28.0, 18.0, 70.0, 60.0]])
        polygons, bits = (visible_fraction(truth(kind)[0].gt_masks, boxes, SIZE) for kind in (False, True))
        torch.testing.assert_close(polygons, bits, atol=0.02, rtol=0)

    def test_other_classes_take_their_best_object(self):
        """Two objects of class 2 in the region; the one with the larger overlap counts, and none of class 1."""
        every = Instances(SIZE)
        every.gt_boxes = Boxes(torch.tensor([[0.0, 0, 40, 40], [0, 0, 20, 20], [0, 0, 36, 40], [60, 40, 70, 50]]))
        every.gt_classes = torch.tensor([0, 2, 2, 1])
        bits = torch.zeros(4, *SIZE, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(bits, every.gt_boxes.tensor.int().tolist()):
            mask[y0:y1, x0:x1] = True
        every.gt_masks = BitMasks(bits)
        region = Instances(SIZE)
        region.proposal_boxes, region.gt_classes = Boxes(torch.tensor([[0.0, 0, 40, 40]])), torch.tensor([0])
        region.gt_masks = every.gt_masks[torch.tensor([0])]
        masks = torch.ones(1, 3, 20, 20, dtype=torch.bool)  # of every class the whole box
        torch.testing.assert_close(maskiou_targets(masks, region, 3), torch.tensor([[1.0, 0.0, 0.0]]))
        region.gt_image = ImageObjects(every, torch.arange(1))
        torch.testing.assert_close(maskiou_targets(masks, region, 3), torch.tensor([[1.0, 0.0, 0.9]]))


class TestHeads:
    @pytest.mark.parametrize("mask_input", INPUTS)
    @pytest.mark.parametrize("bitmaps", [False, True])
    def test_every_input_learns_and_scores(self, mask_input, bitmaps):
        model = heads(mask_input).train()
        with EventStorage():
            _, losses = model(IMAGES, features(), proposals(), truth(bitmaps))
        sum(losses.values()).backward()
        assert losses["loss_maskiou"] > 0
        assert all(p.grad is not None for p in model.parameters())
        with torch.no_grad():
            found, _ = model.eval()(IMAGES, features(), proposals())
        assert all(len(x.mask_scores) == len(x) > 0 for x in found)

    @pytest.mark.parametrize("mask_input", INPUTS)
    def test_on_top_of_pointrend(self, mask_input):
        model = heads(mask_input, "selected", *POINTREND).train()
        with EventStorage():
            _, losses = model(IMAGES, features(), proposals(), truth())
        assert set(losses) >= {"loss_mask", "loss_mask_point", "loss_maskiou"}
        sum(losses.values()).backward()
        assert all(p.grad is not None for p in model.parameters())
        with torch.no_grad():
            found, _ = model.eval()(IMAGES, features(), proposals())
        assert all(x.pred_masks.shape[2:] == (224, 224) and len(x.mask_scores) == len(x) for x in found)

    @pytest.mark.parametrize(
        "agnostic", ["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", "MODEL.POINT_HEAD.CLS_AGNOSTIC_MASK"]
    )
    @pytest.mark.parametrize("coarse", ["", "MaskRCNNConvUpsampleHead"])
    @pytest.mark.parametrize("points", [False, True])
    def test_all_masks_are_as_many_as_pointrend_gives(self, agnostic, coarse, points):
        options = (agnostic, True, "MODEL.POINT_HEAD.COARSE_MASK_HEAD_NAME", coarse)
        model = heads("all", "selected", *POINTREND, *options, "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON", points).eval()
        with torch.no_grad():
            found, _ = model(IMAGES, features(), proposals())
        assert all(len(x.mask_scores) == len(x) > 0 for x in found)

    def test_gradient_reaches_the_mask_head_through_the_mask(self):
        model = heads().train()
        with EventStorage():
            _, losses = model(IMAGES, features(), proposals(), truth())
        losses["loss_maskiou"].backward()
        assert model.mask_head.predictor.weight.grad.abs().sum() > 0

    @pytest.mark.parametrize("target", ["selected", "present", "all"])
    def test_targets(self, target):
        """With all outputs 0 the loss is half the mean square of the targets that count."""
        model = heads("selected", target).train()
        torch.nn.init.zeros_(model.maskiou_head.maskiou.weight)
        seen = []
        loss = model._loss
        model._loss = lambda overlaps, masks, instances: (
            seen.append((masks, instances)) or loss(overlaps, masks, instances)
        )
        with EventStorage():
            _, losses = model(IMAGES, features(), proposals(), truth())
        masks, instances = seen[0]
        per_image = masks.split([len(x) for x in instances])
        want = torch.cat([maskiou_targets(m, x, 3) for m, x in zip(per_image, instances)])
        assert all(x.has("gt_image") == (target != "selected") for x in instances)
        share = want.numel() if target == "all" else (want > 0).sum().item()
        assert losses["loss_maskiou"].item() == pytest.approx(0.5 * want.square().sum().item() / share, rel=1e-4)

    def test_without_objects(self):
        model = heads().train()
        with EventStorage():
            _, losses = model(IMAGES, features(), proposals(), [truth()[1]] * 2)
        assert losses["loss_maskiou"] == 0 and losses["loss_mask"] == 0
        sum(losses.values()).backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_mask_scores_are_class_scores_times_overlaps(self):
        model = heads().eval()
        with torch.no_grad():
            model.maskiou_head.maskiou.weight.zero_()
            model.maskiou_head.maskiou.bias.copy_(torch.tensor([0.5, 0.25, 2.0]))
            found, _ = model(IMAGES, features(), proposals())
        for x in found:
            factor = torch.tensor([0.5, 0.25, 2.0])[x.pred_classes]
            torch.testing.assert_close(x.mask_scores, x.scores * factor)
            assert (x.scores.diff() <= 0).all()  # detections stay ranked by class score

    def test_bad_settings_name_their_keys(self):
        with pytest.raises(ValueError, match=r"MASK_SCORING.INPUT is 'both'"):
            heads("both")
        with pytest.raises(ValueError, match=r"MASK_SCORING.TARGET is 'best'"):
            heads("selected", "best")
        with pytest.raises(ValueError, match="MASK_ON"):
            heads("selected", "selected", "MaskRCNNConvUpsampleHead", "MODEL.MASK_ON", False)

        class Hidden(torch.nn.Module):
            def forward(self, x, instances):
                return {}

        with pytest.raises(ValueError, match="Hidden keeps its logits"):
            check_gives_logits(Hidden())


UPPER_BOUND = ("MODEL.MASK_SCORING.UPPER_BOUND", True)


class TestUpperBound:
    def detections(self, boxes, classes):
        x = Instances(SIZE)
        x.pred_boxes, x.pred_classes = Boxes(torch.tensor(boxes)), torch.tensor(classes)
        x.scores = torch.linspace(0.9, 0.5, len(classes))
        return x

    @pytest.mark.parametrize("bitmaps", [False, True])
    @pytest.mark.parametrize("mask_input", INPUTS)
    def test_masks_have_their_true_overlaps(self, mask_input, bitmaps):
        """Masks fill their boxes. The objects are boxes of 40 x 48 (class 0) and 46 x 40 pixels (class 2)."""
        model = heads(mask_input).eval()
        torch.nn.init.constant_(model.mask_head.predictor.bias, 1e4)
        boxes = [[10.0, 8, 50, 56], [10, 8, 30, 56], [10, 8, 50, 56], [30, 20, 76, 60], [0, 0, 9, 7]]
        found = [self.detections(boxes, [0, 0, 1, 2, 0]), self.detections(boxes[:1], [0])]
        with torch.no_grad():
            found = model.forward_with_given_boxes(features(), found)
        first, second = (best_overlaps(x.pred_masks[:, 0] > 0.5, x, t) for x, t in zip(found, truth(bitmaps)))
        torch.testing.assert_close(first, torch.tensor([1, 0.5, 0, 1, 0]), atol=0.02, rtol=0)
        assert second.tolist() == [0]  # there are no objects in the second image

    def test_of_two_objects_the_better_counts(self):
        every, _ = truth()
        every.gt_classes = torch.tensor([0, 0])
        found = self.detections([[10.0, 8, 50, 56], [30, 20, 76, 60]], [0, 0])
        overlaps = best_overlaps(torch.ones(2, 28, 28, dtype=torch.bool), found, every)
        torch.testing.assert_close(overlaps, torch.ones(2), atol=0.02, rtol=0)

    @pytest.mark.parametrize("extra", [(), POINTREND[1:]], ids=["masks", "pointrend"])
    def test_a_model_with_annotations_in_its_batch(self, extra):
        """The key alone chooses the model that shows them, and the mapper that reads them."""
        sizes = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0]
        sizes += ["TEST.DETECTIONS_PER_IMAGE", 5, "MODEL.ROI_MASK_HEAD.CONV_DIM", 32, "MODEL.MASK_SCORING.FC_DIM", 8]
        if extra:
            extra = ("MODEL.ROI_MASK_HEAD.NAME", POINTREND[0], *extra, "MODEL.ROI_HEADS.NUM_CLASSES", 3)
        words = [str(word) for word in (*sizes, *UPPER_BOUND, *extra)]
        cfg = load_config(str(ROOT / "configs/mask_scoring/mask_scoring_R_18_FPN_streets.yaml"), words)
        assert cfg.INPUT.MAPPER == "TruthfulMapper"
        model = build_model(cfg).eval()
        batch = [
            {"image": torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8), "instances": x, "height": 128, "width": 160}
            for x in truth(bitmaps=False)
        ]
        for x in batch:
            x["instances"].gt_classes.clamp_(max=cfg.MODEL.ROI_HEADS.NUM_CLASSES - 1)
        with torch.no_grad():
            first, second = (result["instances"] for result in model(batch))
        assert len(second) and second.mask_scores.tolist() == [0] * len(second)
        assert ((first.mask_scores >= 0) & (first.mask_scores <= first.scores)).all()
        del batch[1]["instances"]
        with pytest.raises(ValueError, match="has no 'instances'"):
            model(batch)

    @pytest.mark.parametrize(
        ("key", "value", "remedy"),
        [("MODEL.META_ARCHITECTURE", "PanopticFPN", "GeneralizedRCNN"), ("TEST.AUG.ENABLED", "True", "False")],
    )
    def test_models_without_the_truth_are_refused_as_the_configuration_is_read(self, key, value, remedy):
        words = [*map(str, UPPER_BOUND), key, value]
        with pytest.raises(ValueError, match=rf"UPPER_BOUND needs the ground truth.*{key} {remedy}"):
            load_config(str(ROOT / "configs/mask_scoring/mask_scoring_R_50_FPN_1x.yaml"), words)

    def test_an_evaluation_of_the_launcher_ranks_masks_by_their_true_overlaps(self, tmp_path):
        """Objects in one image, a crowd alone in another, nothing in the third; masks that fill their boxes."""
        images = [{"id": k, "height": SIZE[0], "width": SIZE[1], "file_name": f"{k}.png"} for k in (4, 5, 6)]
        for image in images:
            pixels = np.random.default_rng(image["id"]).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / image["file_name"])
        crowd = {"size": list(SIZE), "counts": [0, SIZE[0] * SIZE[1]]}
        notes = [(4, 1, [10, 8, 40, 48], 0), (4, 3, [30, 20, 46, 40], 0), (5, 1, [0, 0, *SIZE[::-1]], 1)]
        annotations = [
            {"id": k, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowded, "area": 900}
            | {"segmentation": crowd if crowded else [corners_of(box)]}
            for k, (image, category, box, crowded) in enumerate(notes, start=1)
        ]
        content = {"images": images, "annotations": annotations}
        content["categories"] = [{"id": k, "name": name} for k, name in enumerate("abc", start=1)]
        (tmp_path / "truth.json").write_text(json.dumps(content))
        register_coco_instances("bounded", {}, str(tmp_path / "truth.json"), str(tmp_path))
        words = ["DATASETS.TRAIN", "()", "DATASETS.TEST", "('bounded',)", "MODEL.WEIGHTS", tmp_path / "model.pth"]
        words += ["OUTPUT_DIR", tmp_path / "out", "MODEL.ROI_HEADS.NUM_CLASSES", 3, *UPPER_BOUND]
        words += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "INPUT.MIN_SIZE_TEST", 64, "DATALOADER.NUM_WORKERS", 0]
        words = [str(word) for word in words]
        config = str(ROOT / "configs/mask_scoring/mask_scoring_R_18_FPN_streets.yaml")
        model = build_model(load_config(config, words))
        torch.nn.init.constant_(model.roi_heads.mask_head.predictor.bias, 1e4)
        torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight)
        torch.save({"model": model.state_dict()}, tmp_path / "model.pth")

        run(run_options(parse_arguments(["--config-file", config, "--eval-only", *words])))
        results = json.loads((tmp_path / "out/inference/bounded/coco_instances_results.json").read_text())
        found = np.array([result["mask_score"] / result["score"] for result in results])
        overlaps = true_overlaps(GroundTruth.of("bounded"), results)
        assert {result["image_id"] for result in results} == {4, 5, 6} and overlaps.max() > 0.3
        np.testing.assert_allclose(found, overlaps, atol=0.05)

    def test_mapper_keeps_what_the_host_drops(self, tmp_path):
        picture = tmp_path / "picture.png"
        Image.fromarray(np.zeros((*SIZE, 3), dtype=np.uint8)).save(picture)
        outline = [10.0, 8.0, 50.0, 8.0, 50.0, 56.0, 10.0, 56.0]
        note = {"bbox": [10, 8, 40, 48], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "segmentation": [outline]}
        record = {"file_name": str(picture), "height": SIZE[0], "width": SIZE[1], "annotations": [note]}
        cfg = load_config(
            str(ROOT / "configs/mask_scoring/mask_scoring_R_50_FPN_1x.yaml"), ["INPUT.MIN_SIZE_TEST", "128"]
        )
        assert "instances" not in MAPPERS.get("DatasetMapper")(cfg, False)(record)
        mapped = MAPPERS.get("TruthfulMapper")(cfg, False)(record)
        assert mapped["instances"].gt_boxes.tensor.tolist() == [[20, 16, 100, 112]]
        assert mapped["instances"].gt_masks.area().tolist() == [80 * 96]


class TestEvaluation:
    def results(self):
        """In each of two images a good and a bad mask; the class score prefers the bad one, the mask score the good."""
        annotations, results = [], []
        for image in (1, 2):
            bits = np.zeros(SIZE, dtype=np.uint8, order="F")
            bits[10:30, 10:40] = 1
            whole = mask_utils.encode(bits)
            bits[10:30, 20:40] = 0
            third = mask_utils.encode(bits)
            box = [10.0, 10.0, 30.0, 20.0]
            annotations.append(
                {"id": image, "image_id": image, "category_id": 1, "bbox": box, "area": 600, "iscrowd": 0}
                | {"segmentation": {"size": list(SIZE), "counts": whole["counts"].decode()}}
            )
            for mask, score, mask_score in ((whole, 0.6, 0.6), (third, 0.9, 0.3)):
                run_lengths = {"size": list(SIZE), "counts": mask["counts"].decode()}
                result = {"image_id": image, "category_id": 1, "bbox": box, "segmentation": run_lengths}
                results.append(result | {"score": score, "mask_score": mask_score})
        content = {
            "images": [{"id": k, "height": SIZE[0], "width": SIZE[1], "file_name": f"{k}.png"} for k in (1, 2)],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "thing"}],
        }
        return content, results

    def test_masks_are_ranked_by_their_scores_and_boxes_are_not(self):
        content, results = self.results()
        truth = GroundTruth.from_coco(content, source="test")
        plain = [{key: value for key, value in r.items() if key != "mask_score"} for r in results]
        assert evaluate_coco(truth, results, "segm").metrics["AP"] == pytest.approx(100)
        assert evaluate_coco(truth, plain, "segm").metrics["AP"] < 60
        boxes = [evaluate_coco(truth, found, "bbox").metrics for found in (results, plain)]
        assert boxes[0] == pytest.approx(boxes[1], nan_ok=True)

    def test_scores_travel_into_the_results(self):
        found = Instances(SIZE)
        found.pred_boxes, found.pred_classes = Boxes(torch.tensor([[1.0, 2, 3, 4]])), torch.tensor([0])
        found.scores, found.pred_masks = torch.tensor([0.5]), torch.zeros(1, *SIZE, dtype=torch.bool)
        assert "mask_score" not in instances_to_coco_json(found, 7)[0]
        found.mask_scores = torch.tensor([0.25])
        result = instances_to_coco_json(found, 7)[0]
        assert (result["score"], result["mask_score"]) == (0.5, 0.25)

    def test_calibration(self, tmp_path):
        content, results = self.results()
        truth = GroundTruth.from_coco(content, source="test")
        overlaps = true_overlaps(truth, [*results, {**results[0], "category_id": 9}])
        assert overlaps.tolist() == pytest.approx([1, 1 / 3, 1, 1 / 3, 0])
        aps = mask_aps(truth, results, overlaps[:4])
        assert aps["upper bound"]["AP"] == pytest.approx(aps["mask score"]["AP"]) == pytest.approx(100)
        assert aps["class score"]["AP"] < 60
        assert correlation([r["mask_score"] for r in results], overlaps[:4]) == pytest.approx(1)
        assert correlation([r["score"] for r in results], overlaps[:4]) == pytest.approx(-1)

    def test_calibration_command(self, tmp_path, capsys):
        content, results = self.results()
        (tmp_path / "truth.json").write_text(json.dumps(content))
        (tmp_path / "results.json").write_text(json.dumps(results))
        register_coco_instances("calibrated", {}, str(tmp_path / "truth.json"), str(tmp_path))
        words = ["--dataset", "calibrated", "--output", str(tmp_path / "plot.png"), "--predictions"]
        main([*words, str(tmp_path / "results.json")])
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "boxes.json").write_text(json.dumps([{"image_id": 1, "category_id": 1, "score": 0.5}]))
        with pytest.raises(SystemExit):
            main([*words, str(tmp_path / "boxes.json")])
        assert "has no masks" in capsys.readouterr().err
        (tmp_path / "other.json").write_text(json.dumps([{**results[0], "image_id": 5}]))
        with pytest.raises(SystemExit):
            main([*words, str(tmp_path / "other.json")])
        assert "does not have, one is 5" in capsys.readouterr().err
