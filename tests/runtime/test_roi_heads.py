"""Region heads: known behaviour at the edges, slow references, and what must not depend on the batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling.box_regression import Box2BoxTransform
from densekit.d2.modeling.matcher import Matcher
from densekit.d2.modeling.poolers import ROIPooler
from densekit.d2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    KRCNNConvDeconvUpsampleHead,
    MaskRCNNConvUpsampleHead,
    Res5ROIHeads,
    StandardROIHeads,
    select_foreground_proposals,
)
from densekit.d2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from densekit.d2.modeling.roi_heads.mask_head import mask_rcnn_inference, mask_rcnn_loss
from densekit.d2.structures import BitMasks, Boxes, ImageList, Instances, Keypoints, PolygonMasks
from densekit.d2.utils.events import EventStorage
from tests.tolerances import close

CLASSES, SIZE, CHANNELS = 3, (64, 80), 8


def random_boxes(count, size=SIZE):
    corner = torch.rand(count, 2) * torch.tensor([size[1], size[0]]) * 0.6
    return torch.cat([corner, corner + 4 + torch.rand(count, 2) * 24], dim=1)


def proposals_of(boxes, **fields):
    return Instances(SIZE, proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(len(boxes)), **fields)


def ground_truth(count):
    boxes = random_boxes(count)
    points = torch.cat([boxes[:, None, :2] + 1 + torch.rand(count, 2, 2) * 3, torch.full((count, 2, 1), 2.0)], dim=2)
    polygons = [[np.array([x0, y0, x1, y0, x1, y1, x0, y1])] for x0, y0, x1, y1 in boxes.numpy()]
    return Instances(
        SIZE,
        gt_boxes=Boxes(boxes),
        gt_classes=torch.arange(count) % CLASSES,
        gt_masks=PolygonMasks(polygons),
        gt_keypoints=Keypoints(points),
    )


# --- whole heads ------------------------------------------------------------------------------------------------------


def pooler(size):
    return ROIPooler(output_size=size, scales=(0.25,), sampling_ratio=0, pooler_type="ROIAlignV2")


def predictor(size, **kwargs):
    transform = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    return FastRCNNOutputLayers(size, box2box_transform=transform, num_classes=CLASSES, **kwargs)


def box_head():
    return FastRCNNConvFCHead(ShapeSpec(channels=CHANNELS, height=3, width=3), conv_dims=[4], fc_dims=[6])


def branches():
    shape = ShapeSpec(channels=CHANNELS, height=4, width=4)
    return {
        "mask_in_features": ["p2"],
        "mask_pooler": pooler(4),
        "mask_head": MaskRCNNConvUpsampleHead(shape, num_classes=CLASSES, conv_dims=[5, 6]),
        "keypoint_in_features": ["p2"],
        "keypoint_pooler": pooler(4),
        "keypoint_head": KRCNNConvDeconvUpsampleHead(shape, num_keypoints=2, conv_dims=[5], loss_normalizer="visible"),
    }


def standard(**kwargs):
    return StandardROIHeads(
        box_in_features=["p2"],
        box_pooler=pooler(3),
        box_head=box_head(),
        box_predictor=predictor(ShapeSpec(channels=6)),
        proposal_matcher=Matcher([0.5], [0, 1]),
        **branches(),
        **kwargs,
    )


def cascade(**kwargs):
    return CascadeROIHeads(
        box_in_features=["p2"],
        box_pooler=pooler(3),
        box_heads=[box_head(), box_head()],
        box_predictors=[predictor(ShapeSpec(channels=6), cls_agnostic_bbox_reg=True) for _ in range(2)],
        proposal_matchers=[Matcher([iou], [0, 1]) for iou in (0.5, 0.6)],
        **branches(),
        **kwargs,
    )


def res5(**kwargs):
    return Res5ROIHeads(
        in_features=["p2"],
        pooler=pooler(4),
        res5=[torch.nn.Conv2d(CHANNELS, 6, 3, stride=2, padding=1), torch.nn.ReLU()],
        box_predictor=predictor(ShapeSpec(channels=6, height=1, width=1)),
        mask_head=MaskRCNNConvUpsampleHead(ShapeSpec(channels=6), num_classes=CLASSES, conv_dims=[5]),
        proposal_matcher=Matcher([0.5], [0, 1]),
        **kwargs,
    )


@pytest.fixture(params=[standard, cascade, res5])
def heads(request):
    return request.param(num_classes=CLASSES, batch_size_per_image=16, positive_fraction=0.5)


def features(images):
    return {"p2": torch.randn(images, CHANNELS, SIZE[0] // 4, SIZE[1] // 4, requires_grad=True)}


def images(count):
    return ImageList(torch.zeros(count, 3, *SIZE), [SIZE] * count)


def train(heads, maps, proposals, targets):
    with EventStorage() as storage:
        _, losses = heads.train()(images(len(proposals)), maps, proposals, targets)
        sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert maps["p2"].grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in heads.parameters())
    return losses, storage


def test_every_branch_learns(heads):
    targets = [ground_truth(3), ground_truth(2)]
    losses, storage = train(heads, features(2), [proposals_of(random_boxes(12)) for _ in targets], targets)
    assert {name.split("_stage")[0] for name in losses} >= {"loss_cls", "loss_box_reg", "loss_mask"}
    assert all(loss > 0 for name, loss in losses.items() if "box_reg" not in name)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in heads.named_parameters() if "weight" in n)
    # ground truth joins the proposals, so that each object has a foreground sample
    assert storage.latest()["roi_head/num_fg_samples"][0] >= 2.5


def test_images_without_objects(heads):
    losses, storage = train(
        heads, features(2), [proposals_of(random_boxes(9)) for _ in range(2)], [ground_truth(0)] * 2
    )
    for name, loss in losses.items():
        assert (loss > 0) if "loss_cls" in name else (loss == 0), name
    assert storage.latest()["roi_head/num_fg_samples"][0] == 0


def test_no_proposals_and_no_objects(heads):
    losses, _ = train(heads, features(2), [proposals_of(torch.zeros(0, 4))] * 2, [ground_truth(0)] * 2)
    assert all(loss == 0 for loss in losses.values())


def test_one_image_of_two_without_objects_or_proposals(heads):
    proposals = [proposals_of(random_boxes(7)), proposals_of(torch.zeros(0, 4))]
    losses, _ = train(heads, features(2), proposals, [ground_truth(2), ground_truth(0)])
    assert all(loss > 0 for name, loss in losses.items() if "loss_cls" in name)


@torch.no_grad()
def test_detections_of_a_batch_are_those_of_its_images(heads):
    maps = {"p2": 3 * torch.randn(2, CHANNELS, SIZE[0] // 4, SIZE[1] // 4)}
    proposals = [proposals_of(random_boxes(11)), proposals_of(random_boxes(6))]
    together, _ = heads.eval()(images(2), maps, proposals)
    for i, batched in enumerate(together):
        (single,), _ = heads(images(1), {"p2": maps["p2"][i : i + 1]}, proposals[i : i + 1])
        assert len(batched) == len(single) > 0
        torch.testing.assert_close(batched.pred_boxes.tensor, single.pred_boxes.tensor, **close(torch.float32))
        for name in set(single.get_fields()) - {"pred_boxes"}:
            torch.testing.assert_close(batched.get(name), single.get(name), **close(torch.float32))


@torch.no_grad()
def test_no_detections(heads):
    maps = {"p2": torch.randn(2, CHANNELS, SIZE[0] // 4, SIZE[1] // 4)}
    detections, _ = heads.eval()(images(2), maps, [proposals_of(torch.zeros(0, 4))] * 2)
    assert [len(x) for x in detections] == [0, 0]
    assert all(x.has("pred_masks") for x in detections)


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_samples_carry_the_matched_object(heads):
    truth = ground_truth(3)
    near = truth.gt_boxes.tensor + 0.3
    far = torch.tensor([[70.0, 58.0, 79.0, 63.0]]).repeat(5, 1)
    with EventStorage():
        (sampled,) = heads.label_and_sample_proposals([proposals_of(torch.cat([far, near]))], [truth])
    foreground, masks = select_foreground_proposals([sampled], CLASSES)
    assert int(masks[0].sum()) == len(foreground[0]) == 6  # each object's own box and the one near it
    offset = (foreground[0].proposal_boxes.tensor - foreground[0].gt_boxes.tensor).abs().amax(dim=1)
    assert (offset < 0.31).all()
    owner = (truth.gt_boxes.tensor[None] == foreground[0].gt_boxes.tensor[:, None]).all(dim=2).int().argmax(dim=1)
    assert torch.equal(foreground[0].gt_classes, truth.gt_classes[owner])
    assert torch.equal(foreground[0].gt_keypoints.tensor, truth.gt_keypoints.tensor[owner])


def test_background_fills_what_foreground_leaves():
    heads = standard(num_classes=CLASSES, batch_size_per_image=8, positive_fraction=0.25, proposal_append_gt=False)
    truth = ground_truth(1)
    boxes = torch.cat([truth.gt_boxes.tensor.repeat(10, 1), torch.tensor([[70.0, 58.0, 79.0, 63.0]]).repeat(20, 1)])
    with EventStorage():
        (sampled,) = heads.label_and_sample_proposals([proposals_of(boxes)], [truth])
    assert (sampled.gt_classes == CLASSES).sum() == 6 and (sampled.gt_classes == truth.gt_classes[0]).sum() == 2


# --- boxes ------------------------------------------------------------------------------------------------------------


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def slow_detections(boxes, scores, size, score_thresh, nms_thresh, topk):
    """Detections of an image as (score, class, box, proposal), one candidate at a time."""
    kept = []
    agnostic = boxes.shape[1] == 4
    for category in range(scores.shape[1] - 1):
        candidates = []
        for row in range(len(scores)):
            if scores[row, category] > score_thresh:
                x0, y0, x1, y1 = (
                    boxes[row].tolist() if agnostic else boxes[row, 4 * category : 4 * category + 4].tolist()
                )
                box = [
                    min(max(x0, 0), size[1]),
                    min(max(y0, 0), size[0]),
                    min(max(x1, 0), size[1]),
                    min(max(y1, 0), size[0]),
                ]
                candidates.append((scores[row, category].item(), category, box, row))
        survivors = []
        for candidate in sorted(candidates, reverse=True):
            if all(iou(candidate[2], other[2]) <= nms_thresh for other in survivors):
                survivors.append(candidate)
        kept += survivors
    return sorted(kept, reverse=True)[: topk if topk >= 0 else None]


@pytest.mark.parametrize("topk", [5, -1])
@pytest.mark.parametrize("agnostic", [True, False])
def test_detections_against_a_slow_reference(agnostic, topk):
    boxes = torch.cat([random_boxes(30) - 8 for _ in range(1 if agnostic else CLASSES)], dim=1)
    scores = torch.softmax(torch.randn(30, CLASSES + 1), dim=1)
    (found,), (rows,) = fast_rcnn_inference([boxes], [scores], [SIZE], 0.3, 0.4, topk)
    expected = slow_detections(boxes, scores, SIZE, 0.3, 0.4, topk)
    assert len(found) == len(expected) > 3
    torch.testing.assert_close(found.scores, torch.tensor([x[0] for x in expected]))
    assert found.pred_classes.tolist() == [x[1] for x in expected]
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([x[2] for x in expected]))
    assert rows.tolist() == [x[3] for x in expected]


def test_numbers_that_are_not_finite_are_no_detections():
    boxes, scores = random_boxes(4), torch.full((4, 2), 0.5)
    boxes[1, 2], scores[2, 0] = torch.inf, torch.nan
    (found,), _ = fast_rcnn_inference([boxes], [scores], [SIZE], 0.1, 1.0, 10)
    assert len(found) == 2 and found.pred_boxes.tensor.isfinite().all()


def test_box_loss_counts_foreground_over_all_proposals():
    layers = predictor(ShapeSpec(channels=6))
    boxes, shift = random_boxes(5), torch.tensor([2.0, -1.0, 2.0, -1.0])
    classes = torch.tensor([CLASSES, 2, CLASSES, 0, CLASSES])
    deltas = torch.zeros(5, 4 * CLASSES)
    wanted = layers.box2box_transform.get_deltas(boxes, boxes + shift)
    expected = (wanted[1].abs().sum() + wanted[3].abs().sum()) / 5
    torch.testing.assert_close(layers.box_reg_loss(boxes, boxes + shift, deltas, classes), expected)


@pytest.mark.parametrize("loss", ["giou", "diou", "ciou", "smooth_l1"])
def test_box_losses_vanish_on_exact_boxes_and_agree_on_class_agnostic_ones(loss):
    specific = predictor(ShapeSpec(channels=6), box_reg_loss_type=loss)
    agnostic = predictor(ShapeSpec(channels=6), box_reg_loss_type=loss, cls_agnostic_bbox_reg=True)
    boxes, truth = random_boxes(6), random_boxes(6)
    classes = torch.tensor([0, 1, 2, CLASSES, 1, 0])
    exact = specific.box2box_transform.get_deltas(boxes, truth)
    assert agnostic.box_reg_loss(boxes, truth, exact, classes) < 1e-4
    deltas = torch.randn(6, 4) / 3
    one = agnostic.box_reg_loss(boxes, truth, deltas, classes)
    per_class = specific.box_reg_loss(boxes, truth, deltas.repeat(1, CLASSES), classes)
    assert one > 0
    torch.testing.assert_close(one, per_class)


def test_class_agnostic_boxes_equal_class_specific_ones_with_the_same_weights():
    specific, agnostic = predictor(ShapeSpec(channels=6)), predictor(ShapeSpec(channels=6), cls_agnostic_bbox_reg=True)
    assert specific.bbox_pred.out_features == 4 * CLASSES and agnostic.bbox_pred.out_features == 4
    with torch.no_grad():
        agnostic.bbox_pred.weight.normal_(std=0.3)
        specific.bbox_pred.weight.copy_(agnostic.bbox_pred.weight.repeat(CLASSES, 1))
        specific.cls_score.weight.copy_(agnostic.cls_score.weight)
    proposals, x = [proposals_of(random_boxes(4)), proposals_of(random_boxes(3))], torch.randn(7, 6)
    per_class, shared = (layers.predict_boxes(layers(x), proposals) for layers in (specific, agnostic))
    for a, b in zip(per_class, shared):
        torch.testing.assert_close(a.view(-1, CLASSES, 4), b[:, None].expand(-1, CLASSES, -1))
    (a, b), (c, d) = (layers.inference(layers(x), proposals)[0] for layers in (specific, agnostic))
    torch.testing.assert_close(a.pred_boxes.tensor, c.pred_boxes.tensor)
    torch.testing.assert_close(b.scores, d.scores)


def test_boxes_of_the_true_class():
    layers = predictor(ShapeSpec(channels=6))
    classes = torch.tensor([2, 0, CLASSES, 1])
    proposals = [
        proposals_of(random_boxes(3), gt_classes=classes[:3]),
        proposals_of(random_boxes(1), gt_classes=classes[3:]),
    ]
    predictions = (torch.zeros(4, CLASSES + 1), torch.randn(4, 4 * CLASSES))
    per_class = torch.cat(layers.predict_boxes(predictions, proposals)).view(4, CLASSES, 4)
    chosen = torch.cat(layers.predict_boxes_for_gt_classes(predictions, proposals))
    for row, category in ((0, 2), (1, 0), (3, 1)):  # background has no box of its own
        assert torch.equal(chosen[row], per_class[row, category])


# --- masks ------------------------------------------------------------------------------------------------------------


def slow_mask_target(mask, box, side):
    """Bilinear samples of a (H, W) mask on a grid over a box, as many per cell as it has pixels; then at one half."""
    x0, y0, x1, y1 = box
    wide, high = (x1 - x0) / side, (y1 - y0) / side
    across, down = max(int(np.ceil(wide)), 1), max(int(np.ceil(high)), 1)

    def at(y, x):
        if y < -1 or y > mask.shape[0] or x < -1 or x > mask.shape[1]:
            return 0.0
        y, x = min(max(y, 0), mask.shape[0] - 1), min(max(x, 0), mask.shape[1] - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, mask.shape[0] - 1), min(left + 1, mask.shape[1] - 1)
        v, u = y - top, x - left
        return (mask[top, left] * (1 - u) + mask[top, right] * u) * (1 - v) + (mask[bottom, left] * (1 - u) + mask[bottom, right] * u) * v  # fmt: skip  # noqa: E501

    target = np.zeros((side, side))
    for i in range(side):
        for j in range(side):
            samples = [
                at(y0 + (i + (a + 0.5) / down) * high - 0.5, x0 + (j + (b + 0.5) / across) * wide - 0.5)
                for a in range(down)
                for b in range(across)
            ]
            target[i, j] = np.mean(samples)
    return target >= 0.5


def test_mask_loss_against_a_slow_reference():
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    discs = np.stack([(rows - y) ** 2 + (columns - x) ** 2 < r * r for y, x, r in ((20, 25, 11), (40, 50, 9))])
    boxes, classes = torch.tensor([[12.3, 8.1, 38.9, 33.7], [35.0, 30.2, 60.5, 52.0]]), torch.tensor([2, 0])
    logits = torch.randn(2, CLASSES, 6, 6)
    targets = np.stack([slow_mask_target(disc, box, 6) for disc, box in zip(discs, boxes.tolist())])
    expected = F.binary_cross_entropy_with_logits(
        torch.stack([logits[0, 2], logits[1, 0]]), torch.from_numpy(targets).float()
    )
    proposals = [
        proposals_of(
            boxes[i : i + 1], gt_classes=classes[i : i + 1], gt_masks=BitMasks(torch.from_numpy(discs[i : i + 1]))
        )
        for i in range(2)
    ]
    with EventStorage() as storage:
        loss = mask_rcnn_loss(logits, proposals)
        agnostic = mask_rcnn_loss(torch.stack([logits[0, 2], logits[1, 0]])[:, None], proposals)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(agnostic, expected)
    right = ((torch.stack([logits[0, 2], logits[1, 0]]) > 0).numpy() == targets).mean()
    assert storage.latest()["mask_rcnn/accuracy"][0] == pytest.approx(right)


def test_mask_of_the_predicted_class():
    logits, classes = torch.randn(3, CLASSES, 4, 4), torch.tensor([1, 2, 0])
    detections = [Instances(SIZE, pred_classes=classes[:2]), Instances(SIZE, pred_classes=classes[2:])]
    mask_rcnn_inference(logits, detections)
    for row, (instances, i) in enumerate([(detections[0], 0), (detections[0], 1), (detections[1], 0)]):
        torch.testing.assert_close(instances.pred_masks[i, 0], logits[row, classes[row]].sigmoid())
    mask_rcnn_inference(logits[:, :1], detections)
    torch.testing.assert_close(detections[1].pred_masks[0, 0], logits[2, 0].sigmoid())


# --- keypoints --------------------------------------------------------------------------------------------------------


def test_keypoint_outside_its_proposal_or_unlabelled_is_not_learnt():
    head = KRCNNConvDeconvUpsampleHead(
        ShapeSpec(channels=CHANNELS), num_keypoints=2, conv_dims=[4], loss_normalizer="visible"
    )
    x = torch.randn(1, CHANNELS, 4, 4)
    inside, outside, unlabelled = [20.0, 20.0, 2.0], [70.0, 60.0, 2.0], [20.0, 20.0, 0.0]
    losses = {}
    with EventStorage():
        for name, second in (("outside", outside), ("unlabelled", unlabelled)):
            truth = Keypoints(torch.tensor([[inside, second]]))
            proposal = proposals_of(torch.tensor([[10.0, 10.0, 40.0, 40.0]]), gt_keypoints=truth)
            losses[name] = head(x, [proposal])["loss_keypoint"]
    assert losses["outside"] == losses["unlabelled"] > 0
