"""The detector, its assignments, losses, fusing and weights."""

import math
import os
import sys
import types

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from densekit.config import load_config
from densekit.d2.modeling import build_model
from densekit.d2.structures import Boxes, Instances
from densekit.ops.box_losses import BOX_LOSSES, box_loss
from densekit.ops.quality_losses import CLASS_LOSSES, distribution_focal_loss
from densekit.projects.yolov6.assignment import Grid, Objects, Predictions, adaptive_selection, task_aligned
from densekit.projects.yolov6.inference import Selection
from densekit.projects.yolov6.points import positions
from densekit.projects.yolov6.simota import sim_ota
from densekit.projects.yolov6.units import UNITS, fuse
from densekit.solver import build_optimizer
from densekit.weights.formats import read_checkpoint
from tests.tolerances import close

CONFIG = "configs/yolov6/_base_/yolov6.yaml"
SMALL = [
    "MODEL.DEVICE",
    "cpu",
    "MODEL.YOLOV6.WIDTH",
    "0.03",
    "MODEL.YOLOV6.DEPTH",
    "0.1",
    "MODEL.YOLOV6.NUM_CLASSES",
    "3",
]
ASSIGNERS = (task_aligned, adaptive_selection, sim_ota)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def detector(*options):
    return build_model(load_config(CONFIG, [*SMALL, *options]))


def sample(count, height=70, width=90):
    corners = torch.rand(count, 2) * torch.tensor([width / 2, height / 2])
    truth = Instances((height, width))
    truth.gt_boxes = Boxes(torch.cat([corners, corners + 5 + torch.rand(count, 2) * 25], 1))
    truth.gt_classes = torch.randint(0, 3, (count,))
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "instances": truth, "height": 2 * height, "width": 2 * width}


def scattered(module):
    """Gives norms statistics and predictors weights that a training would have."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low in (
                (part.weight, 0.5),
                (part.bias, -0.5),
                (part.running_mean, -0.5),
                (part.running_var, 0.5),
            ):
                tensor.data.uniform_(low, low + 1)
        elif isinstance(part, nn.Conv2d) and not part.weight.any():
            part.weight.data.normal_(std=0.1)
    return module


@pytest.mark.parametrize("name", [name for name in UNITS if name != "scaled_sum"])
@pytest.mark.parametrize("channels", ((8, 8, 1), (8, 12, 2)))
def test_fused_units_are_one_convolution_of_the_same_values(name, channels):
    a, b, stride = channels
    unit = scattered(UNITS[name](a, b, stride=stride)).eval()
    x = torch.randn(2, a, 9, 7)
    before = unit(x)
    fuse(nn.Sequential(unit))
    assert sum(isinstance(part, nn.Conv2d) for part in unit.modules()) == 1
    assert not any(isinstance(part, nn.BatchNorm2d) for part in unit.modules())
    torch.testing.assert_close(unit(x), before, **close(torch.float32))


@pytest.mark.parametrize(
    "options",
    (
        ["MODEL.YOLOV6.FINER", "True", "MODEL.YOLOV6.POOL", "simcspsppf", "MODEL.YOLOV6.ANCHORS", "True"],
        ["MODEL.YOLOV6.STAGE", "csp", "MODEL.YOLOV6.BINS", "17"],
        ["MODEL.YOLOV6.STAGE", "mbla", "MODEL.YOLOV6.UNIT", "conv_silu", "MODEL.YOLOV6.POOL", "sppf"],
        ["MODEL.YOLOV6.UNIT", "qarepvgg", "MODEL.YOLOV6.OBJECTNESS", "True", "MODEL.YOLOV6.EXTRA_BINS", "17"],
    ),
)
def test_fused_detector_finds_the_same(options):
    model = scattered(detector(*options, "MODEL.YOLOV6.SCORE_THRESH_TEST", "0.0")).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        boxes, scores = model.forward_tensors(images)
        assert model.fuse() is model
        fused_boxes, fused_scores = model.forward_tensors(images)
    torch.testing.assert_close(fused_boxes / 96, boxes / 96, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fused_scores, scores, atol=1e-5, rtol=1e-5)
    assert model.fuse() is model  # a second time changes nothing


def test_any_backbone_and_any_pyramid_carry_the_head():
    small = ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.NORM", "BN"]
    outputs = ["MODEL.RESNETS.OUT_FEATURES", "['res2','res3','res4','res5']"]
    pyramid = [
        "MODEL.BACKBONE.NAME",
        "build_resnet_fpn_backbone",
        "MODEL.FPN.IN_FEATURES",
        "['res2','res3','res4','res5']",
    ]
    on_pyramid = detector(*small, *outputs, *pyramid, "MODEL.FPN.OUT_CHANNELS", "16")
    assert on_pyramid.in_features == ["p2", "p3", "p4", "p5", "p6"] and on_pyramid.head.strides == [4, 8, 16, 32, 64]
    below = detector(*small, *outputs, "MODEL.YOLOV6.BOTTOM_UP", "build_resnet_backbone", "MODEL.YOLOV6.FINER", "True")
    for model in (on_pyramid, below):
        losses = model([sample(2), sample(0)])
        assert all(torch.isfinite(loss) for loss in losses.values())
    with pytest.raises(ValueError, match="OUT_FEATURES"):
        detector(*small, "MODEL.YOLOV6.BOTTOM_UP", "build_resnet_backbone")


def test_padding_leaves_detections_in_the_frame_that_is_asked_for():
    model = scattered(detector("MODEL.YOLOV6.SCORE_THRESH_TEST", "0.001")).eval()
    item = sample(0, 64, 96)
    with torch.no_grad():
        (alone,) = model([item])
        together = model([item, sample(0, 96, 128)])[0]
    assert alone["instances"].image_size == together["instances"].image_size == (128, 192)
    boxes = alone["instances"].pred_boxes.tensor
    assert len(boxes) and (boxes[:, 2] <= 192).all() and (boxes[:, 3] <= 128).all()


@pytest.mark.parametrize("assigner", ("tal", "atss", "simota"))
@pytest.mark.parametrize("counts", ((3, 0), (0, 0), (1, 5)))
def test_images_without_objects_and_maps_of_few_positions(assigner, counts):
    model = detector("MODEL.YOLOV6.ASSIGNER", assigner, "MODEL.YOLOV6.ANCHORS", "True", "MODEL.YOLOV6.BINS", "17")
    losses = model([sample(count, 40, 50) for count in counts])  # two positions on the coarsest level
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    if not any(counts):
        assert losses["loss_box"] == losses["loss_dfl"] == 0


def crowd(images=2, objects=4, size=(64, 96)):
    sizes = [(size[0] // s, size[1] // s) for s in (8, 16, 32)]
    points, strides = positions(sizes, [8, 16, 32], torch.zeros(1, dtype=torch.float64))
    corners = torch.rand(images, objects, 2).double() * 40
    truth = torch.cat([corners, corners + 6 + torch.rand(images, objects, 2).double() * 30], -1)
    noise = torch.rand(images, len(points), 4).double() * 20
    predicted = torch.cat([points - noise[..., :2], points + noise[..., 2:]], -1)
    scores = torch.rand(images, len(points), 3).double()
    grid = Grid(points, strides, [h * w for h, w in sizes])
    labels = torch.randint(0, 3, (images, objects))
    return Predictions(scores, predicted), grid, Objects(labels, truth, torch.ones(images, objects, dtype=torch.bool))


def iou(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(w, 0) * max(h, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common + 1e-9)


def test_task_alignment_against_loops():
    predictions, grid, objects = crowd()
    result = task_aligned(predictions, grid, objects, topk=5, alpha=0.5, beta=3)
    for image in range(2):
        takers = {}
        for m, box in enumerate(objects.boxes[image].tolist()):
            metrics = []
            for a, (x, y) in enumerate(grid.points.tolist()):
                if box[0] < x < box[2] and box[1] < y < box[3]:
                    score = predictions.scores[image, a, objects.labels[image, m]].item()
                    metrics.append((score**0.5 * iou(box, predictions.boxes[image, a].tolist()) ** 3, a))
            for _, a in sorted(metrics, reverse=True)[:5]:
                takers.setdefault(a, []).append(m)
        every = objects.boxes[image].tolist()
        for a in range(len(grid.points)):
            assert bool(result.positive[image, a]) == (a in takers)
            if a in takers:
                overlaps = [iou(box, predictions.boxes[image, a].tolist()) for box in every]
                best = takers[a][0] if len(takers[a]) == 1 else max(range(4), key=overlaps.__getitem__)
                assert result.boxes[image, a].tolist() == every[best]


@pytest.mark.parametrize("assigner", ASSIGNERS)
def test_padding_and_order_of_objects_change_nothing(assigner):
    predictions, grid, objects = crowd()
    result = assigner(predictions, grid, objects)
    order = torch.tensor([2, 0, 3, 1])
    padded = Objects.of(list(objects.labels[:, order]), list(objects.boxes[:, order]))
    wide = [torch.cat([t, t.new_zeros(2, 3, *t.shape[2:])], 1) for t in (padded.labels, padded.boxes, padded.valid)]
    again = assigner(predictions, grid, Objects(*wide))
    torch.testing.assert_close(again.scores, result.scores)
    assert torch.equal(again.labels, result.labels) and torch.equal(again.positive, result.positive)
    assert torch.equal(again.boxes[again.positive], result.boxes[result.positive])
    assert result.positive.any() and not result.scores[~result.positive].any()


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_box_losses(kind):
    pred = torch.tensor([[1.0, 2, 9, 8], [0, 0, 4, 4], [3, 3, 3, 3]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[2.0, 1, 8, 9], [0, 0, 4, 4], [3, 3, 3, 3]], dtype=torch.float64)
    loss = box_loss(pred, target, kind)
    loss.sum().backward()
    assert abs(loss[1].item()) < 1e-9 and torch.isfinite(loss).all() and torch.isfinite(pred.grad).all()
    assert box_loss(pred[:1], target[:1] + 20, kind) >= 1 > loss[0]
    scaled = box_loss(pred[:1] * 7 + 3, target[:1] * 7 + 3, kind)
    torch.testing.assert_close(scaled, loss[:1], atol=1e-8, rtol=1e-8)
    if kind != "ciou":  # whose weight of the aspect ratio is not differentiated
        assert torch.autograd.gradcheck(lambda x: box_loss(x, target[:1], kind), pred[:1].detach().requires_grad_())


@pytest.mark.parametrize("kind", CLASS_LOSSES)
def test_class_losses_have_their_least_value_at_the_quality(kind):
    logits = torch.linspace(-6, 6, 2401, dtype=torch.float64)
    quality, positive = torch.full_like(logits, 0.6), torch.ones_like(logits, dtype=torch.bool)
    least = logits[CLASS_LOSSES[kind](logits, quality, positive).argmin()].sigmoid()
    assert abs(least - 0.6) < 2e-3
    x = logits[::400].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: CLASS_LOSSES[kind](z, quality[::400], positive[::400]), x)


def test_distribution_focal_loss_is_least_at_the_distance():
    x = torch.zeros(1, 8, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=5.0)
    for _ in range(2000):
        optimizer.zero_grad()
        distribution_focal_loss(x, torch.tensor([2.25])).sum().backward()
        optimizer.step()
    share = x.detach().softmax(-1)[0]
    assert abs(share[2] - 0.75) < 0.01 and abs(share[3] - 0.25) < 0.01


def test_detections_of_several_classes():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    scores = torch.tensor([[0.9, 0.5], [0.8, 0.1], [0.2, 0.02]])
    chosen, values, classes = Selection()(boxes, scores)
    assert values.tolist() == pytest.approx([0.9, 0.5, 0.2]) and classes.tolist() == [0, 1, 0] and len(chosen) == 3
    assert Selection(multi_label=False)(boxes, scores)[2].tolist() == [0, 0]
    assert Selection(most=1)(boxes, scores)[1].tolist() == pytest.approx([0.9])


def _losses_in_process(rank, port, batches, state, options, path):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=len(batches))
    torch.save(_gradients(batches[rank], state, options), f"{path}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _gradients(batch, state, options):
    model = detector(*options)
    model.load_state_dict(state)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()  # whose statistics are those of a process
    losses = model(batch)
    sum(losses.values()).backward()
    return {k: v.detach() for k, v in losses.items()}, {
        n: p.grad for n, p in model.named_parameters() if p.grad is not None
    }


def test_two_processes_have_the_loss_of_one_with_both_batches(tmp_path):
    options = ["MODEL.YOLOV6.ANCHORS", "True", "MODEL.YOLOV6.BINS", "17", "MODEL.YOLOV6.OBJECTNESS", "True"]
    state = scattered(detector(*options)).state_dict()
    batches = [[sample(4, 64, 96)], [sample(0, 64, 96)]]
    port = 20000 + os.getpid() % 20000
    mp.spawn(_losses_in_process, args=(port, batches, state, options, str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    losses, gradients = _gradients(batches[0] + batches[1], state, options)
    for name, value in losses.items():
        torch.testing.assert_close(sum(part[0][name] for part in parts) / 2, value, atol=1e-5, rtol=1e-5)
    for name, value in gradients.items():
        mean = sum(part[1][name] for part in parts) / 2
        torch.testing.assert_close(mean, value, atol=1e-5 * max(1.0, value.abs().max().item()), rtol=1e-4)


def test_student_learns_from_a_teacher(tmp_path):
    options = ["MODEL.YOLOV6.BINS", "17", "MODEL.YOLOV6.DISTILL_FEATURE_WEIGHT", "10.0"]
    teacher = scattered(detector(*options))
    torch.save({"model": teacher.state_dict()}, tmp_path / "teacher.pth")
    student = detector(*options, "MODEL.TEACHER.WEIGHTS", str(tmp_path / "teacher.pth"))
    batch = [sample(3), sample(1)]
    taught = student(batch)
    student.teacher = None
    alone = student(batch)
    assert taught["loss_cls"] > alone["loss_cls"] and taught["loss_dfl"] > alone["loss_dfl"]
    assert taught["loss_features"] > 0 and "loss_features" not in alone
    with pytest.raises(ValueError, match="EXTRA_BINS"):
        detector("MODEL.TEACHER.WEIGHTS", str(tmp_path / "teacher.pth"))


def test_rep_optimizer_takes_the_scales_of_a_search(tmp_path):
    search = detector("MODEL.YOLOV6.UNIT", "scaled_sum")
    torch.save({"model": search.state_dict()}, tmp_path / "search.pth")
    cfg = load_config(CONFIG, [*SMALL, "MODEL.YOLOV6.UNIT", "conv_relu", "SOLVER.OPTIMIZER", "RepOptimizer"])
    with pytest.raises(ValueError, match="REP_SCALES"):
        build_optimizer(cfg, build_model(cfg))
    cfg.MODEL.YOLOV6.REP_SCALES = str(tmp_path / "search.pth")
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    unit = model.backbone.bottom_up.stem.conv.weight
    assert torch.equal(model.gradient_masks[unit].unique(), torch.tensor([1.0, 2.0]))  # scales of 1, no identity
    sum(model([sample(2)]).values()).backward()
    before = unit.grad.clone()
    optimizer.step()
    torch.testing.assert_close(unit.grad, before * model.gradient_masks[unit])


def test_factor_of_a_shortcut_is_left_as_it_is():
    cfg = load_config(CONFIG, [*SMALL, "MODEL.YOLOV6.STAGE", "csp", "SOLVER.BASE_LR", "0.1"])
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    sum(model([sample(2), sample(1)]).values()).backward()
    optimizer.step()
    factors = [value for name, value in model.named_parameters() if name.endswith("alpha")]
    assert factors and all(value.item() == 1 for value in factors)


class _Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)])
        self.register_buffer("table", torch.arange(3.0), persistent=False)
        self.names = {"a", "b"}


def test_pickled_modules_are_read_without_their_classes(tmp_path, monkeypatch):
    elsewhere = types.ModuleType("authors_code")
    elsewhere._Nested = _Nested
    monkeypatch.setitem(sys.modules, "authors_code", elsewhere)
    monkeypatch.setattr(_Nested, "__module__", "authors_code")
    model, average = _Nested().half(), _Nested().half()
    path = tmp_path / "authors.pt"
    torch.save({"model": model, "ema": average, "epoch": 3}, path)
    expected = average.state_dict()
    monkeypatch.delitem(sys.modules, "authors_code")
    found = read_checkpoint(path)["model"]
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


class _Attack:
    def __reduce__(self):
        return os.system, ("touch /tmp/densekit_was_here",)


@pytest.mark.parametrize("place", ("model", "beside"))
def test_pickled_modules_cannot_run_anything(tmp_path, monkeypatch, place):
    called = []
    content = {"model": _Attack()} if place == "model" else {"model": nn.Conv2d(1, 1, 1), "other": _Attack()}
    path = tmp_path / "attack.pt"
    torch.save(content, path)
    monkeypatch.setattr(os, "system", called.append)
    if place == "model":
        with pytest.raises(ValueError, match="asks for"):
            read_checkpoint(path)
    else:
        assert set(read_checkpoint(path)["model"]) == {"weight", "bias"}
    assert not called


def test_other_forms_are_refused_by_name():
    from densekit.weights.parts import find_layout

    names = ["detect.cls_preds.0.weight", "backbone.ERBlock_6.0.rbr_dense.conv.weight"]
    layout = find_layout(names)
    with pytest.raises(ValueError, match="not the lite, P6 and deployed forms"):
        layout.convert({name: torch.zeros(1) for name in names})


def test_bias_of_the_classes_begins_at_one_in_a_hundred():
    model = detector().eval()
    with torch.no_grad():
        _, scores = model.forward_tensors(torch.rand(1, 3, 64, 64))
    assert math.isclose(scores.mean().item(), 0.01, rel_tol=1e-4)
