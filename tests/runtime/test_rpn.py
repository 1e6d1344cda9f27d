"""Anchors, matching, sampling and the RPN: known values, slow readable references, empty ground truth."""

import math

import pytest
import torch
from torchvision.ops import box_iou

from densekit.d2.config import get_cfg
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import build_proposal_generator
from densekit.d2.modeling.anchor_generator import DefaultAnchorGenerator
from densekit.d2.modeling.matcher import Matcher
from densekit.d2.modeling.proposal_generator import RPN, StandardRPNHead
from densekit.d2.modeling.proposal_generator.proposal_utils import (
    add_ground_truth_to_proposals,
    find_top_rpn_proposals,
)
from densekit.d2.modeling.sampling import subsample_labels
from densekit.d2.structures import Boxes, ImageList, Instances
from densekit.d2.utils.events import EventStorage
from tests.tolerances import close

# --- anchors ----------------------------------------------------------------------------------------------------------


def test_anchors_lie_where_they_should():
    generator = DefaultAnchorGenerator(sizes=[[32.0]], aspect_ratios=[[0.5, 1.0, 2.0]], strides=[16], offset=0.5)
    (anchors,) = generator([torch.zeros(1, 4, 2, 3)])
    assert len(anchors) == 2 * 3 * 3 and generator.num_anchors == [3]
    # Order: rows, then columns, then shapes. The ratio is height / width; all have the area of a square of 32.
    torch.testing.assert_close(anchors.tensor[1], torch.tensor([-8.0, -8.0, 24.0, 24.0]))
    torch.testing.assert_close(anchors.tensor[3 + 1], torch.tensor([8.0, -8.0, 40.0, 24.0]))
    torch.testing.assert_close(anchors.tensor[9 + 1], torch.tensor([-8.0, 8.0, 24.0, 40.0]))
    width, height = (anchors.tensor[:, 2:] - anchors.tensor[:, :2]).unbind(dim=1)
    torch.testing.assert_close(width * height, torch.full_like(width, 32.0**2))
    torch.testing.assert_close((height / width).view(-1, 3), torch.tensor([0.5, 1.0, 2.0]).expand(6, 3))


def test_one_list_of_sizes_serves_all_levels_and_nothing_enters_checkpoints():
    generator = DefaultAnchorGenerator(sizes=[16.0, 64.0], aspect_ratios=[[1.0], [2.0]], strides=[4, 8], offset=0.0)
    assert generator.num_anchors == [2, 2] and generator.box_dim == 4
    fine, coarse = generator([torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 2)])
    assert fine.tensor.tolist() == [[-8, -8, 8, 8], [-32, -32, 32, 32]]
    torch.testing.assert_close(coarse.tensor[2:], coarse.tensor[:2] + torch.tensor([8.0, 0, 8, 0]))
    assert not generator.state_dict() and len(list(generator.buffers())) == 2


# --- matching and sampling --------------------------------------------------------------------------------------------


def slow_match(quality, thresholds, labels, low_quality):
    matches, found = [], []
    for column in quality.T.tolist():
        best = max(column)
        matches.append(column.index(best))
        found.append(labels[sum(best >= threshold for threshold in thresholds)])
    if low_quality:
        for row in quality.tolist():
            found = [1 if value == max(row) else label for value, label in zip(row, found)]
    return matches, found


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("thresholds, labels", [([0.25, 0.75], [0, -1, 1]), ([0.5], [0, 1]), ([0.5], [-1, 1])])
def test_matcher_equals_the_loop(thresholds, labels, low_quality):
    # Eighths, with exact hits on thresholds and ties; one ground truth has low quality only.
    quality = torch.randint(0, 9, (5, 60)) / 8
    quality[2] /= 4
    matches, found = Matcher(thresholds, labels, allow_low_quality_matches=low_quality)(quality)
    expected_matches, expected = slow_match(quality, thresholds, labels, low_quality)
    best = quality.max(dim=0).values
    torch.testing.assert_close(quality[matches, torch.arange(60)], best)
    assert found.tolist() == expected and found.dtype == torch.int8 and len(expected_matches) == 60


@pytest.mark.parametrize("shape", [(0, 7), (3, 0)])
def test_matcher_without_ground_truth_or_predictions_takes_the_lowest_label(shape):
    matches, labels = Matcher([0.5], [-1, 1], allow_low_quality_matches=True)(torch.zeros(shape))
    assert matches.tolist() == [0] * shape[1] and labels.tolist() == [-1] * shape[1]


def test_sample_has_the_wanted_share_or_what_there_is():
    labels = torch.cat((torch.full((50,), -1), torch.zeros(200), torch.ones(30), torch.full((30,), 7))).long()
    labels = labels[torch.randperm(len(labels))]
    positive, negative = subsample_labels(labels, 100, 0.25, 0)
    assert len(positive) == 25 and len(negative) == 75
    assert (labels[positive] > 0).all() and (labels[negative] == 0).all()
    assert len(set(torch.cat((positive, negative)).tolist())) == 100
    positive, negative = subsample_labels(labels, 400, 0.5, 0)
    assert len(positive) == 60 and len(negative) == 200
    # 7 may also be the background; then 0 is an object class.
    positive, negative = subsample_labels(labels, 40, 1.0, 7)
    assert len(positive) == 40 and len(negative) == 0 and (labels[positive] != 7).all()


def test_sample_is_random_and_fair():
    labels, counts = torch.tensor([1] * 10 + [0] * 10), torch.zeros(20)
    for _ in range(300):
        for chosen in subsample_labels(labels, 10, 0.5, 0):
            counts[chosen] += 1
    # Binomial with n = 300, p = 1/2: mean 150, standard deviation under 9.
    assert ((counts - 150).abs() < 50).all()


# --- selection of proposals -------------------------------------------------------------------------------------------


def slow_select(proposals, logits, size, nms_thresh, pre, post, min_size):
    """One image; levels of (R, 4) boxes and (R,) logits."""
    kept = []
    for boxes, scores in zip(proposals, logits):
        chosen = []
        for index in scores.argsort(descending=True)[:pre].tolist():
            x0, y0, x1, y1 = boxes[index].tolist()
            x0, x1 = (min(max(x, 0), size[1]) for x in (x0, x1))
            y0, y1 = (min(max(y, 0), size[0]) for y in (y0, y1))
            if x1 - x0 <= min_size or y1 - y0 <= min_size:
                continue
            box = torch.tensor([[x0, y0, x1, y1]])
            if all(box_iou(box, other) <= nms_thresh for _, other in chosen):
                chosen.append((float(scores[index]), box))
        kept += chosen
    kept.sort(key=lambda item: -item[0])
    return torch.cat([box for _, box in kept[:post]]), torch.tensor([score for score, _ in kept[:post]])


def candidates(count):
    corner = torch.rand(2, count, 2) * 90 - 10
    return torch.cat((corner, corner + torch.rand(2, count, 2) * 50), dim=2), torch.randn(2, count)


@pytest.mark.parametrize("post, min_size", [(1000, 0.0), (10, 0.0), (1000, 12.0)])
def test_selection_equals_the_loop(post, min_size):
    levels = [candidates(60), candidates(25), candidates(3)]
    boxes, logits = [level[0] for level in levels], [level[1] for level in levels]
    sizes = [(70, 80), (64, 50)]
    found = find_top_rpn_proposals(boxes, logits, sizes, 0.5, 40, post, min_size, False)
    for image, (result, size) in enumerate(zip(found, sizes)):
        expected, scores = slow_select(
            [b[image] for b in boxes], [x[image] for x in logits], size, 0.5, 40, post, min_size
        )
        torch.testing.assert_close(result.proposal_boxes.tensor, expected)
        torch.testing.assert_close(result.objectness_logits, scores)
        assert result.image_size == size


def test_predictions_that_are_not_finite_stop_the_training_and_are_dropped_at_test():
    boxes, logits = candidates(10)
    boxes[0, 3, 2], logits[1, 4] = float("inf"), float("nan")
    with pytest.raises(FloatingPointError, match="diverged"):
        find_top_rpn_proposals([boxes], [logits], [(100, 100)] * 2, 1.0, 10, 10, 0.0, True)
    for result in find_top_rpn_proposals([boxes], [logits], [(200, 200)] * 2, 1.0, 10, 10, -1.0, False):
        assert len(result) == 9
        assert result.proposal_boxes.tensor.isfinite().all() and result.objectness_logits.isfinite().all()


def test_ground_truth_joins_the_proposals_as_near_certain():
    proposals = Instances((50, 60))
    proposals.proposal_boxes = Boxes(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    proposals.objectness_logits = torch.tensor([0.5])
    truth = Instances((50, 60), gt_boxes=Boxes(torch.tensor([[5.0, 5.0, 9.0, 9.0], [0.0, 0.0, 8.0, 8.0]])))
    for gt in (truth, truth.gt_boxes):
        (joined,) = add_ground_truth_to_proposals([gt], [proposals])
        assert joined.proposal_boxes.tensor.tolist() == [[1, 2, 3, 4], [5, 5, 9, 9], [0, 0, 8, 8]]
        assert joined.objectness_logits[0] == 0.5 and (joined.objectness_logits[1:].sigmoid() > 1 - 1e-6).all()
        assert joined.image_size == (50, 60) and len(proposals) == 1
    (joined,) = add_ground_truth_to_proposals([truth[:0]], [proposals])
    assert len(joined) == 1


# --- the head and the network -----------------------------------------------------------------------------------------

SHAPES = {"p3": ShapeSpec(channels=8, stride=8), "p4": ShapeSpec(channels=8, stride=16)}


def rpn(*options):
    cfg = get_cfg()
    cfg.MODEL.RPN.IN_FEATURES = ["p3", "p4"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [48]]
    cfg.merge_from_list(list(options))
    return build_proposal_generator(cfg, SHAPES)


def features_for(images=2, height=64, width=96):
    return {
        name: torch.randn(images, 8, height // shape.stride, width // shape.stride, requires_grad=True)
        for name, shape in SHAPES.items()
    }


def truth(*counts, size=(64, 96)):
    boxes = torch.tensor([[4.0, 4.0, 22.0, 20.0], [30.0, 8.0, 80.0, 60.0], [50.0, 30.0, 66.0, 46.0]])
    return [Instances(size, gt_boxes=Boxes(boxes[:count]), gt_classes=torch.zeros(count).long()) for count in counts]


def images_of(count, size=(64, 96)):
    return ImageList(torch.zeros(count, 3, *size), [size] * count)


@pytest.mark.parametrize("channels_last", [False, True])
def test_predictions_belong_to_their_anchors(channels_last):
    """One loud cell of one map: the best proposal is the anchor that this cell stands for."""
    model = rpn("MODEL.ANCHOR_GENERATOR.OFFSET", 0.5).eval()
    features = features_for(1)
    logits = [torch.zeros(1, 3, *features[name].shape[2:]) for name in SHAPES]
    deltas = [torch.zeros(1, 12, *features[name].shape[2:]) for name in SHAPES]
    logits[1][0, 2, 1, 3] = 9.0  # level p4, third shape (ratio 2), row 1, column 3
    deltas[1][0, 2 * 4 : 3 * 4, 1, 3] = torch.tensor([0.5, -0.25, 0.0, math.log(0.5)])
    if channels_last:
        logits, deltas = ([x.contiguous(memory_format=torch.channels_last) for x in maps] for maps in (logits, deltas))
    model.rpn_head.forward = lambda _: (logits, deltas)
    (proposals,), losses = model(images_of(1), features)
    width, height = 48 / math.sqrt(2), 48 * math.sqrt(2)
    x, y = 16 * 3.5 + 0.5 * width, 16 * 1.5 - 0.25 * height
    expected = torch.tensor([x - width / 2, y - height / 4, x + width / 2, y + height / 4])
    expected = expected.clamp(min=0).minimum(torch.tensor([96.0, 64.0, 96.0, 64.0]))
    torch.testing.assert_close(proposals.proposal_boxes.tensor[0], expected)
    assert proposals.objectness_logits[0] == 9.0 and not losses


def test_decoding_only_the_best_changes_nothing():
    model = rpn("MODEL.RPN.PRE_NMS_TOPK_TEST", 20, "MODEL.RPN.POST_NMS_TOPK_TEST", 15).eval()
    features = features_for()
    torch.nn.init.normal_(model.rpn_head.anchor_deltas.weight, std=0.2)
    torch.nn.init.normal_(model.rpn_head.objectness_logits.weight, std=0.5)
    found, _ = model(images_of(2), features)
    maps = [features[name] for name in SHAPES]
    logits, deltas = model.rpn_head(maps)
    logits = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]
    decoded = []
    for anchors, level in zip(model.anchor_generator(maps), deltas):
        level = level.view(2, 3, 4, *level.shape[2:]).permute(0, 3, 4, 1, 2).flatten(1, 3)
        decoded.append(torch.stack([model.box2box_transform.apply_deltas(x, anchors.tensor) for x in level]))
    expected = find_top_rpn_proposals(decoded, logits, [(64, 96)] * 2, model.nms_thresh, 20, 15, 0.0, False)
    for one, other in zip(found, expected):
        assert len(one) == 15
        torch.testing.assert_close(one.proposal_boxes.tensor, other.proposal_boxes.tensor)
        torch.testing.assert_close(one.objectness_logits, other.objectness_logits)


def test_losses_are_the_formulas_on_the_sample():
    model = rpn(
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 40, "MODEL.RPN.LOSS_WEIGHT", 0.5, "MODEL.RPN.BBOX_REG_LOSS_WEIGHT", 3.0
    )
    features, gt = features_for(), truth(3, 1)
    maps = [features[name] for name in SHAPES]
    with EventStorage() as storage:
        torch.manual_seed(3)
        proposals, losses = model(images_of(2), features, gt)
        scalars = {name: value for name, (value, _) in storage.latest().items()}
    torch.manual_seed(3)
    anchors = model.anchor_generator(maps)
    labels, matched = model.label_and_sample_anchors(anchors, gt)
    labels, matched = torch.stack(labels), torch.stack(matched)
    assert [(row >= 0).sum() for row in labels] == [40, 40]
    assert scalars["rpn/num_pos_anchors"] == (labels == 1).sum() / 2
    assert scalars["rpn/num_neg_anchors"] == (labels == 0).sum() / 2
    logits, deltas = model.rpn_head(maps)
    logits = torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in logits], dim=1)
    deltas = torch.cat(
        [x.view(2, 3, 4, *x.shape[2:]).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in deltas],
        dim=1,
    )
    probability = logits.sigmoid()
    cls = -(probability[labels == 1].log().sum() + (1 - probability[labels == 0]).log().sum()) / 80
    torch.testing.assert_close(losses["loss_rpn_cls"], 0.5 * cls, **close(torch.float32))
    targets = model.box2box_transform.get_deltas(Boxes.cat(anchors).tensor.repeat(2, 1), matched.flatten(0, 1))
    loc = (deltas - targets.view_as(deltas))[labels == 1].abs().sum() / 80
    torch.testing.assert_close(losses["loss_rpn_loc"], 0.5 * 3.0 * loc, **close(torch.float32))
    assert not any(value.requires_grad for item in proposals for value in (item.proposal_boxes.tensor,))


@pytest.mark.parametrize("counts", [(0, 0), (2, 0)])
@pytest.mark.parametrize("loss", ["smooth_l1", "giou"])
def test_empty_ground_truth_gives_finite_gradients(counts, loss):
    model, features = rpn("MODEL.RPN.BBOX_REG_LOSS_TYPE", loss), features_for()
    with EventStorage():
        _, losses = model(images_of(2), features, truth(*counts))
    sum(losses.values()).backward()
    assert losses["loss_rpn_cls"] > 0
    assert (losses["loss_rpn_loc"] == 0) == (sum(counts) == 0)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert all(feature.grad.isfinite().all() for feature in features.values())


def test_anchors_that_leave_the_image_can_stay_out_of_the_loss():
    model = rpn("MODEL.RPN.BOUNDARY_THRESH", 0, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 10000)
    anchors = model.anchor_generator([features_for()[name] for name in SHAPES])
    (labels,), _ = model.label_and_sample_anchors(anchors, truth(2))
    boxes = Boxes.cat(anchors).tensor
    inside = (boxes[:, :2] >= 0).all(dim=1) & (boxes[:, 2] <= 96) & (boxes[:, 3] <= 64)
    assert (labels[~inside] == -1).all() and (labels[inside] >= 0).any()


def test_head_names_are_those_of_checkpoints():
    single = StandardRPNHead(in_channels=8, num_anchors=3)
    assert {name.split(".")[0] for name in single.state_dict()} == {"conv", "objectness_logits", "anchor_deltas"}
    several = StandardRPNHead(in_channels=8, num_anchors=3, conv_dims=[-1, 16])
    assert {n for n in several.state_dict() if n.startswith("conv.")} == {
        f"conv.conv{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")
    }
    logits, deltas = several([torch.randn(2, 8, 5, 6)])
    assert logits[0].shape == (2, 3, 5, 6) and deltas[0].shape == (2, 12, 5, 6)
    assert isinstance(rpn(), RPN)


def test_wrong_settings_are_refused():
    from densekit.runtime.config import get_cfg as runtime_cfg
    from densekit.runtime.layers import ShapeSpec as Shape
    from densekit.runtime.modeling import build_proposal_generator as build
    from densekit.runtime.modeling.anchor_generator import DefaultAnchorGenerator as Anchors
    from densekit.runtime.modeling.matcher import Matcher as RuntimeMatcher
    from densekit.runtime.modeling.proposal_generator import StandardRPNHead as Head
    from densekit.runtime.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals as join

    with pytest.raises(ValueError, match="2 entries for 3 feature maps"):
        Anchors(sizes=[[32], [64]], aspect_ratios=[[1.0]], strides=[4, 8, 16])
    with pytest.raises(ValueError, match=r"offset=1\.5"):
        Anchors(sizes=[[32]], aspect_ratios=[[1.0]], strides=[4], offset=1.5)
    for thresholds, labels in (([0.7, 0.3], [0, -1, 1]), ([0.5], [0, -1, 1]), ([0.5], [0, 2]), ([0.0], [0, 1])):
        with pytest.raises(ValueError, match="Matcher"):
            RuntimeMatcher(thresholds, labels)
    with pytest.raises(ValueError, match=r"conv_dims=\[0\]"):
        Head(in_channels=8, num_anchors=3, conv_dims=[0])
    cfg = runtime_cfg()
    cfg.MODEL.RPN.IN_FEATURES = ["a", "b"]
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RPN"
    with pytest.raises(ValueError, match=r"channels \[8, 9\]"):
        build(cfg, {"a": Shape(channels=8, stride=8), "b": Shape(channels=9, stride=16)})
    with pytest.raises(ValueError, match="1 images and proposals of 0"):
        join([None], [])
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    assert build(cfg, {}) is None


# --- the backward pass of the head's convolution ----------------------------------------------------------------------


def dense_gradients(conv, x, upstream):
    y = torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)
    return torch.autograd.grad((y * upstream).sum(), [x, conv.weight, conv.bias])


@pytest.mark.parametrize("pixels", [0, 1, 7, 400], ids=["none", "one", "few", "dense"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_sparse_backward_equals_the_dense_one(pixels, memory_format):
    from densekit.runtime.modeling.proposal_generator.sparse_grad import SparseGradConv2d

    conv = SparseGradConv2d(5, 4)
    x = torch.randn(2, 5, 12, 17).contiguous(memory_format=memory_format).requires_grad_()
    # Corners and edges first: there the kernel reaches into the padding.
    places = torch.cat((torch.tensor([0, 16, 203, 204, 407, 210, 100]), torch.randperm(408)))[:pixels]
    upstream = torch.zeros(2 * 12 * 17, 4)
    upstream[places] = torch.randn(len(places), 4)
    upstream = upstream.view(2, 12, 17, 4).permute(0, 3, 1, 2)
    found = torch.autograd.grad((conv(x) * upstream).sum(), [x, conv.weight, conv.bias])
    for gradient, expected in zip(found, dense_gradients(conv, x, upstream)):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_sparse_backward_of_parts_of_the_inputs():
    from densekit.runtime.modeling.proposal_generator.sparse_grad import SparseGradConv2d

    x, upstream = torch.randn(1, 3, 9, 9), torch.zeros(1, 2, 9, 9)
    upstream[0, :, 4, 0] = 1
    conv = SparseGradConv2d(3, 2, bias=False)
    (conv(x) * upstream).sum().backward()
    expected = torch.nn.functional.pad(x, (1, 1, 1, 1))[0, :, 4:7, 0:3].expand(2, 3, 3, 3)
    torch.testing.assert_close(conv.weight.grad, expected)
    conv.requires_grad_(False)
    (conv(x.requires_grad_()) * upstream).sum().backward()
    assert x.grad.abs().sum(dim=1).nonzero()[:, 1:].tolist() == [[i, j] for i in (3, 4, 5) for j in (0, 1)]
    with torch.no_grad():
        torch.testing.assert_close(conv(x), torch.nn.functional.conv2d(x, conv.weight, padding=1))


def test_sparse_backward_gradcheck():
    from densekit.runtime.modeling.proposal_generator.sparse_grad import SparseGradConv2d

    conv, x = SparseGradConv2d(2, 3).double(), torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    read = torch.tensor([[0, 0], [3, 5]])
    assert torch.autograd.gradcheck(lambda v: conv(v)[0, :, read[:, 0], read[:, 1]], [x])
    parameters = [p.detach().clone().requires_grad_() for p in (conv.weight, conv.bias)]
    assert torch.autograd.gradcheck(lambda w, b: conv._conv_forward(x.detach(), w, b)[0, :, 3, 5], parameters)
