"""Matching and losses of sets, against slow readable references, and across processes."""

import json
import logging
from itertools import permutations

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torchvision.ops import box_convert, generalized_box_iou

from densekit.modeling.matcher import HungarianMatcher
from densekit.modeling.set_criterion import SetCriterion, weighted
from tests.tolerances import close

CLASSES, QUERIES = 3, 5
WEIGHTS = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_mask": 1.0, "loss_dice": 1.0}


def random_boxes(*shape):
    return torch.cat((0.3 + 0.4 * torch.rand(*shape, 2), 0.05 + 0.3 * torch.rand(*shape, 2)), dim=-1)


def predictions(images=2, layers=3, masks=False):
    made = [
        {
            "pred_logits": torch.randn(images, QUERIES, CLASSES + 1, requires_grad=True),
            "pred_boxes": random_boxes(images, QUERIES).requires_grad_(),
        }
        for _ in range(layers)
    ]
    outputs = {**made[-1], "aux_outputs": made[:-1]}
    if masks:
        outputs["pred_masks"] = torch.randn(images, QUERIES, 6, 8, requires_grad=True)
    return outputs


def objects(*counts, masks=False):
    targets = [{"labels": torch.randint(0, CLASSES, (count,)), "boxes": random_boxes(count)} for count in counts]
    if masks:
        for target in targets:
            target["masks"] = torch.rand(len(target["labels"]), 12, 16) > 0.5
    return targets


def criterion():
    return SetCriterion(num_classes=CLASSES, matcher=HungarianMatcher())


def pair_cost(logits, box, label, wanted):
    """The cost of one prediction for one object, as section 3.1 of the paper defines it."""
    corners = box_convert(torch.stack((box, wanted)), "cxcywh", "xyxy")
    overlap = generalized_box_iou(corners[:1], corners[1:]).item()
    return -logits.softmax(0)[label].item() + 5 * (box - wanted).abs().sum().item() - 2 * overlap


def best_assignment(logits, boxes, target):
    """Tries every assignment of the objects to predictions: index of the prediction of each object."""
    count = len(target["labels"])
    table = [
        [pair_cost(logits[q], boxes[q], target["labels"][t], target["boxes"][t]) for t in range(count)]
        for q in range(len(logits))
    ]
    return min(
        permutations(range(len(logits)), count), key=lambda chosen: sum(table[q][t] for t, q in enumerate(chosen))
    )


def test_matching_is_the_best_of_all_assignments():
    outputs, targets = predictions(layers=1), objects(3, 2)
    for image, (rows, columns) in enumerate(HungarianMatcher()(outputs, targets)):
        best = best_assignment(outputs["pred_logits"][image], outputs["pred_boxes"][image], targets[image])
        assert dict(zip(columns.tolist(), rows.tolist())) == dict(enumerate(best))
        assert rows.tolist() == sorted(rows.tolist())


def test_images_without_objects_match_nothing():
    outputs = predictions(layers=1)
    matches = HungarianMatcher()(outputs, objects(0, 2))
    assert [len(rows) for rows, _ in matches] == [0, 2]
    assert all(len(rows) == 0 for rows, _ in HungarianMatcher()(outputs, objects(0, 0)))


def test_more_objects_than_queries_are_matched_as_far_as_queries_go(caplog):
    matcher, outputs = HungarianMatcher(), predictions(layers=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            rows, columns = matcher(outputs, [*objects(8), *objects(1)])[0]
    assert sorted(rows.tolist()) == list(range(QUERIES)) and len(set(columns.tolist())) == QUERIES
    assert len(caplog.records) == 1 and "8 objects and the model 5 queries" in caplog.text


@pytest.mark.parametrize(("where", "named"), [("pred_logits", "classes"), ("pred_boxes", "boxes")])
def test_costs_that_are_not_finite_name_the_image(where, named):
    outputs, targets = predictions(layers=1), objects(1, 2)
    targets[1]["name"] = "street_7.png"
    outputs[where].data[1, 3] = torch.nan
    with pytest.raises(FloatingPointError, match=rf"street_7\.png.*predicted {named}"):
        HungarianMatcher()(outputs, targets)
    targets[1].pop("name")
    with pytest.raises(FloatingPointError, match="image 1 of the batch"):
        HungarianMatcher()(outputs, targets)


def slow_losses(layer, targets, no_object=0.1):
    """The losses of one decoder layer, image by image and pair by pair."""
    total_weight = cross_entropy = distance = overlap = 0.0
    for image, target in enumerate(targets):
        logits, boxes = layer["pred_logits"][image], layer["pred_boxes"][image]
        chosen = best_assignment(logits.detach(), boxes.detach(), target)
        for q in range(QUERIES):
            label = target["labels"][chosen.index(q)].item() if q in chosen else CLASSES
            weight = 1.0 if q in chosen else no_object
            cross_entropy = cross_entropy - weight * F.log_softmax(logits[q], dim=0)[label]
            total_weight += weight
        for t, q in enumerate(chosen):
            corners = box_convert(torch.stack((boxes[q], target["boxes"][t])), "cxcywh", "xyxy")
            distance = distance + (boxes[q] - target["boxes"][t]).abs().sum()
            overlap = overlap + 1 - generalized_box_iou(corners[:1], corners[1:]).squeeze()
    count = max(sum(len(target["labels"]) for target in targets), 1)
    return cross_entropy / total_weight, distance / count, overlap / count


def test_losses_of_every_layer_equal_the_slow_ones():
    outputs, targets = predictions(), objects(3, 1)
    losses = criterion()(outputs, targets)
    for suffix, layer in (("_0", outputs["aux_outputs"][0]), ("_1", outputs["aux_outputs"][1]), ("", outputs)):
        names = [f"{name}{suffix}" for name in ("loss_ce", "loss_bbox", "loss_giou")]
        for name, expected in zip(names, slow_losses(layer, targets)):
            torch.testing.assert_close(losses[name], expected, **close(torch.float32))


def test_the_encoders_cells_are_matched_by_themselves():
    """They are other in number than the queries."""
    outputs, targets = predictions(), objects(3, 1)
    cells = {"pred_logits": torch.randn(2, 9, CLASSES + 1), "pred_boxes": random_boxes(2, 9)}
    alone, queries = criterion()(cells, targets), criterion()(outputs, targets)
    losses = criterion()({**outputs, "enc_outputs": cells}, targets)
    for name in ("loss_ce", "loss_bbox", "loss_giou"):
        torch.testing.assert_close(losses[f"{name}_enc"], alone[name])
        torch.testing.assert_close(losses[name], queries[name])
    assert weighted({"loss_giou_enc": torch.tensor(1.5)}, WEIGHTS) == {"loss_giou_enc": 3.0}


def test_mask_losses_equal_their_definitions():
    outputs, targets = predictions(layers=1, masks=True), objects(2, 1, masks=True)
    losses = criterion()(outputs, targets)
    focal = dice = 0.0
    for image, (rows, columns) in enumerate(HungarianMatcher()(outputs, targets)):
        for q, t in zip(rows, columns):
            logits = F.interpolate(outputs["pred_masks"][image, q][None, None], (12, 16), mode="bilinear")[0, 0]
            truth, p = targets[image]["masks"][t].float(), logits.sigmoid()
            right, alpha = p * truth + (1 - p) * (1 - truth), 0.25 * truth + 0.75 * (1 - truth)
            focal = focal - (alpha * (1 - right) ** 2 * right.log()).mean()
            dice = dice + 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
    torch.testing.assert_close(losses["loss_mask"], focal / 3, **close(torch.float32))
    torch.testing.assert_close(losses["loss_dice"], dice / 3, **close(torch.float32))


def test_no_objects_give_no_box_losses_and_finite_gradients():
    outputs = predictions(masks=True)
    losses = weighted(criterion()(outputs, objects(0, 0, masks=True)), WEIGHTS)
    assert all(loss == 0 for name, loss in losses.items() if not name.startswith("loss_ce"))
    sum(losses.values()).backward()
    assert outputs["pred_logits"].grad.abs().sum() > 0
    for values in (outputs["pred_boxes"], outputs["pred_masks"]):
        assert torch.isfinite(values.grad).all() and not values.grad.any()


def test_gradients_in_double_precision():
    targets = objects(2, 1, masks=True)
    outputs = predictions(layers=2, masks=True)
    layers = [*outputs["aux_outputs"], outputs]
    tensors = [layer[name].detach().double() for layer in layers for name in ("pred_logits", "pred_boxes")]
    tensors.append(outputs["pred_masks"].detach().double())
    learns = criterion()

    def losses(logits0, boxes0, logits1, boxes1, masks):
        first, last = {"pred_logits": logits0, "pred_boxes": boxes0}, {"pred_logits": logits1, "pred_boxes": boxes1}
        found = learns({**last, "aux_outputs": [first], "pred_masks": masks}, targets)
        return tuple(weighted(found, WEIGHTS).values())

    assert len(losses(*tensors)) == 8
    assert torch.autograd.gradcheck(losses, [tensor.requires_grad_() for tensor in tensors])


def test_figures_to_watch():
    outputs, targets = predictions(layers=1, images=1), objects(2)
    with torch.no_grad():
        outputs["pred_logits"][:] = 0.0
        outputs["pred_logits"][..., CLASSES] = 9.0
        outputs["pred_boxes"][0, :2] = targets[0]["boxes"]
        outputs["pred_logits"][0, 0, targets[0]["labels"][0]] = 99.0
    losses = criterion()(outputs, targets)
    assert losses["class_error"] == 50.0  # one of the two matched is taken for nothing
    assert losses["cardinality_error"] == 1.0  # one object is predicted, two are there


def batch(start, stop):
    """Images of one random batch; the processes of the test must draw the same."""
    torch.manual_seed(3)
    outputs, targets = predictions(images=4, masks=True), objects(4, 0, 1, 2, masks=True)
    part = [{k: v[start:stop] for k, v in layer.items()} for layer in outputs.pop("aux_outputs")]
    return {**{k: v[start:stop] for k, v in outputs.items()}, "aux_outputs": part}, targets[start:stop]


def losses_of(start, stop):
    losses = weighted(criterion()(*batch(start, stop)), WEIGHTS)
    return {name: loss.item() for name, loss in losses.items()}


def each(args):
    rank = dist.get_rank()
    (args.folder / f"{rank}.json").write_text(json.dumps(losses_of(2 * rank, 2 * rank + 2)))


@pytest.mark.slow
def test_two_processes_have_the_losses_of_the_joint_batch(tmp_path, in_processes):
    """Data parallelism averages the gradients of the processes, so the mean of their losses must be that of one."""
    in_processes(each, 2, folder=tmp_path)
    parts = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for name, expected in losses_of(0, 4).items():
        assert (parts[0][name] + parts[1][name]) / 2 == pytest.approx(expected, abs=1e-5), name
