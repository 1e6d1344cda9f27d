"""Recorded parts: blocks, losses of boxes and classes, positions, assignment, suppression."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from densekit.ops.box_losses import box_loss
from densekit.ops.quality_losses import distribution_focal_loss, varifocal_loss
from densekit.projects.yolov6.assignment import (
    Grid,
    Objects,
    Predictions,
    adaptive_selection,
    nothing_to_find,
    task_aligned,
)
from densekit.projects.yolov6.blocks import (
    Bottle,
    CSPPoolingPyramid,
    CSPStack,
    MultiBranchStack,
    PoolingPyramid,
    ThreeScaleFusion,
    UnitStack,
)
from densekit.projects.yolov6.inference import Selection
from densekit.projects.yolov6.points import boxes_to_distances, distances_to_boxes, mean_of_bins, positions
from densekit.projects.yolov6.units import ConvNorm, QARepVGGUnit, RepVGGUnit, ScaledSumUnit, fuse
from densekit.projects.yolov6.weights import UNIT, at
from tests.projects.yolov6.recorded_networks import rename
from tests.recorded_cases import Cases

Recorded = Mapping[str, Any]
# Units wherever they are, and what stands beside them.
_LEAVES = [*at(r"(.+?\.)", r"\1", UNIT), (r"(.+)", r"\1")]
STRIDES = [8, 16, 32]


def _block(name: str, state: Recorded, x: Any, out: Tensor) -> tuple[nn.Module, list[tuple[str, str]]]:
    """A block of the recorded kind and size, and how the authors' places in it are ours."""
    channels = (x[0] if isinstance(x, list) else x).shape[1], out.shape[1]
    stride = 1 if isinstance(x, list) else -(-x.shape[2] // out.shape[2])
    silu = "silu" if "silu" in name or name in ("sppf", "cspsppf") else "relu"
    if name.startswith("repvgg"):
        return RepVGGUnit(*channels, stride=stride), []
    if name.startswith("qarepvgg"):
        return QARepVGGUnit(*channels, stride=stride, average=name.endswith("v2")), []
    if name.startswith("convbn"):
        kernel = state["block.conv.weight"].shape[-1]
        return ConvNorm(*channels, kernel=kernel, stride=stride, activation=silu), []
    if name in ("simsppf", "sppf"):
        return PoolingPyramid(*channels, activation=silu), [
            (r"sppf\.cv1\.(.+)", r"enter.\1"),
            (r"sppf\.cv2\.(.+)", r"leave.\1"),
        ]
    if name in ("simcspsppf", "cspsppf"):
        order = ("before.0", "beside", "before.1", "before.2", "after.0", "after.1", "leave")
        return CSPPoolingPyramid(*channels, activation=silu), [
            (rf"cspsppf\.cv{k}\.(.+)", rf"{ours}.\1") for k, ours in enumerate(order, start=1)
        ]
    if name == "bifusion":
        sizes = {"coarse_channels": x[0].shape[1], "same_channels": x[1].shape[1], "fine_channels": x[2].shape[1]}
        ours = {"cv1": "same", "cv2": "fine", "cv3": "leave", "downsample": "shrink"}
        inner = [(rf"{a}\.(.+)", rf"{b}.\1") for a, b in ours.items()]
        return ThreeScaleFusion(**sizes, out_channels=channels[1]), [
            *inner,
            (r"upsample\.upsample_transpose\.(.+)", r"enlarge.\1"),
        ]
    if name == "transpose":
        return nn.ConvTranspose2d(*channels, 2, 2), [(r"upsample_transpose\.(.+)", r"\1")]
    if name == "linear_add":
        return ScaledSumUnit(*channels, stride=stride), []
    if name == "realvgg":
        return ConvNorm(*channels, stride=stride), []
    return _stage(name, state, channels, silu)


def _stage(name: str, state: Recorded, channels: tuple[int, int], silu: str) -> tuple[nn.Module, list[tuple[str, str]]]:
    """As :func:`_block`, of blocks of several units."""
    rest = [(r"conv1\.(.+)", r"first.\1"), (r"block\.(\d+)\.(.+)", r"rest.\1.\2")]
    unit = [(r"(.*?)conv(\d)\.((?:rbr|block).+)", r"\1unit\2.\3")]
    csp = [("cv1", "enter"), ("cv2", "beside"), ("cv3", "leave")]
    places = [(rf"{a}\.(.+)", rf"{b}.\1") for a, b in csp]
    numbers = [int(key.split(".")[2]) + 1 for key in state if key.startswith("m.block.")]
    count = 2 * max([1, *[number + 1 for number in numbers]])
    if name.startswith("repblock_bottlerep"):
        inner = [(r"conv1\.alpha", "first.alpha"), (r"conv1\.conv(\d)\.(.+)", r"first.unit\1.\2")]
        inner += [(r"block\.(\d+)\.alpha", r"rest.\1.alpha"), (r"block\.(\d+)\.conv(\d)\.(.+)", r"rest.\1.unit\2.\3")]
        count = 2 * (1 + len({key.split(".")[1] for key in state if key.startswith("block.")}))
        return UnitStack(*channels, count=count, unit="repvgg", bottles=True), inner
    if name.startswith("repblock"):
        count = 1 + len({key.split(".")[1] for key in state if key.startswith("block.")})
        return UnitStack(*channels, count=count, unit="repvgg"), rest
    if name.startswith("bottlerep"):
        return Bottle(*channels, unit="repvgg"), [("alpha", "alpha"), *unit]
    if name.startswith("bepc3"):
        width = state["cv1.block.conv.weight"].shape[0]
        kind = "conv_silu" if silu == "silu" else "repvgg"
        inner = [(r"m\.conv1\.alpha", "stack.first.alpha"), (r"m\.conv1\.conv(\d)\.(.+)", r"stack.first.unit\1.\2")]
        inner += [(r"m\.block\.(\d+)\.alpha", r"stack.rest.\1.alpha")]
        inner += [(r"m\.block\.(\d+)\.conv(\d)\.(.+)", r"stack.rest.\1.unit\2.\3")]
        return CSPStack(*channels, count=count, unit=kind, expansion=(width + 0.01) / channels[1]), [*places, *inner]
    if name.startswith("mbla"):
        width = state["m.0.0.conv1.block.conv.weight"].shape[0]
        depth = max(int(key.split(".")[2]) + 1 for key in state if key.startswith("m."))
        inner = [(r"cv1\.(.+)", r"enter.\1"), (r"cv2\.(.+)", r"leave.\1")]
        inner += [(r"m\.(\d+)\.(\d+)\.alpha", r"branches.\1.\2.alpha")]
        inner += [(r"m\.(\d+)\.(\d+)\.conv(\d)\.(.+)", r"branches.\1.\2.unit\3.\4")]
        made = MultiBranchStack(*channels, count=2 * depth, unit="conv_silu", expansion=(width + 0.01) / channels[1])
        return made, inner
    raise KeyError(name)


def _check_blocks(blocks: Recorded, cases: Cases, recorded: Recorded) -> None:
    for name, case in blocks.items():
        state = {key: value.float() for key, value in case["state_dict"].items()}
        block, places = _block(name, state, case["x"], case["out_eval"])
        # Leaves are translated with a place in front of them, as in a whole network.
        placed = rename(state, places or [(r"(.+)", r"\1")])
        ours = rename({f"x.{key}": value for key, value in placed.items()}, _LEAVES)
        block.load_state_dict({key.removeprefix("x."): value for key, value in ours.items()})
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = _EPS, 0.03
        x = case["x"] if isinstance(case["x"], list) else [case["x"]]
        cases.close(f"{name}: training", block.train()(*x), case["out_train"])
        block.load_state_dict({key.removeprefix("x."): value for key, value in ours.items()})
        cases.close(f"{name}: evaluation", block.eval()(*x), case["out_eval"])
        holder = nn.Sequential(block)
        fuse(holder)
        cases.close(f"{name}: deployed", block(*x), case["out_deploy"])
        _check_fused_weights(name, block, case["deploy_state_dict_f32"], cases)


_EPS = 1e-3


def _check_fused_weights(name: str, block: nn.Module, theirs: Recorded, cases: Cases) -> None:
    """Fused weights, whatever their names: for each of theirs there is one of ours."""
    if any(key.endswith("running_mean") for key in theirs):
        cases.not_checked(f"{name}: fused weights", "the authors leave a norm unfused here; the outputs are compared")
        return
    own = list(block.state_dict().values())
    matched = []
    for value in theirs.values():
        near = [x for x in own if x.shape == value.shape]
        matched.append(min(near, key=lambda x, value=value: float((x - value).abs().max())))
    cases.close(f"{name}: fused weights", matched, list(theirs.values()))


def _check_box_losses(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    pred, target = case["pred"], case["target"]
    for key, value in case.items():
        kind, _, rest = key.partition("_")
        if key in ("pred", "target", "note"):
            continue
        dtype = torch.float64 if key.endswith("f64") else torch.float32
        tolerance = {"atol": 1e-10, "rtol": 0.0} if dtype is torch.float64 else {}
        x = pred.to(dtype).requires_grad_()
        if rest.startswith("xywh"):  # the same boxes, turned into centre and size in float32
            cases.close(f"{key} loss", box_loss(x, target.to(dtype), kind)[:, None], value, atol=1e-6, rtol=0)
            continue
        loss = box_loss(x, target.to(dtype), kind)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        known = ~value[0][:, 0].isnan() & ~value[1].isnan().any(1)  # 0 / 0 in the authors' code
        cases.close(f"{key} loss", loss[known][:, None], value[0][known], **tolerance)
        if tolerance and kind == "siou":
            tolerance["atol"] = 1e-9  # where centres coincide the gradient hangs on the place of the epsilon
        cases.close(f"{key} gradient", gradient[known], value[1][known], **tolerance)


def _check_vfl(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    # The authors' cross-entropy is in float32 in both cases.
    probability, quality = case["pred"].double(), case["gt_score"].double()
    logits = torch.logit(probability).requires_grad_()
    loss = varifocal_loss(logits, quality, case["label"].bool()).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    gradient = gradient / (probability * (1 - probability))
    for suffix in ("", "_f64"):
        cases.close(f"varifocal{suffix} loss", loss, case[f"loss{suffix}"], atol=1e-5, rtol=1e-6)
        cases.close(f"varifocal{suffix} gradient", gradient, case[f"grad{suffix}"], atol=1e-4)


def _check_dfl(parts: list[Recorded], cases: Cases, recorded: Recorded) -> None:
    for case in parts:
        x = case["pred"].clone().requires_grad_()
        loss = distribution_focal_loss(x, case["target"]).mean(-1, keepdim=True)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        cases.close(f"distribution focal {case['reg_max']}", [loss, gradient], [case["loss"], case["grad"]])


def _check_distances(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    points = case["points"]
    for key, value in case.items():
        if key.startswith("dist"):
            most = float(key.removeprefix("dist"))
            cases.close(f"distances to {most:g}", boxes_to_distances(case["boxes"], points, most), value)
        elif key.startswith("back_"):
            boxes = distances_to_boxes(case[f"dist{key.removeprefix('back_xyxy').removeprefix('back_xywh')}"], points)
            if "xywh" in key:
                boxes = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
            cases.close(f"boxes {key}", boxes, value)


def _check_box_terms(parts: Recorded, cases: Cases, recorded: Recorded) -> None:
    for (with_bins, reg_max, kind), case in parts.items():
        x = case["pred_dist"].clone().requires_grad_()
        boxes = distances_to_boxes(mean_of_bins(x) if with_bins else x, case["points"])
        fg, total = case["fg"], case["score_sum"]
        weight = case["target_scores"].sum(-1)[fg]
        loss = (box_loss(boxes[fg], case["target_boxes"][fg], kind) * weight).sum() / total
        bins = x.sum() * 0
        if with_bins:
            targets = boxes_to_distances(case["target_boxes"], case["points"], reg_max)[fg]
            bins = (distribution_focal_loss(x[fg].unflatten(-1, (4, -1)), targets).mean(-1) * weight).sum() / total
        (gradient,) = torch.autograd.grad(loss + bins, x)
        ours, theirs = [loss, bins, gradient], [case["loss_iou"], case["loss_dfl"], case["grad"]]
        cases.close(f"box terms {with_bins, reg_max, kind}", ours, theirs)


def _check_positions(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    sizes = [tuple(size) for size in case["feature_hw"]]
    points, strides = positions(sizes, STRIDES, torch.zeros(1))
    half = strides * 2.5
    cases.equal("positions: points", points, case["points"])
    cases.equal("positions: strides", strides, case["stride"])
    cases.equal("positions: squares", torch.cat([points - half, points + half], 1), case["anchors"])
    cases.equal("positions: counts", [h * w for h, w in sizes], list(case["n_per_level"]))
    evaluation = recorded["anchors_eval"]
    cases.close("positions in evaluation", [points / strides, strides], [evaluation["points"], evaluation["stride"]])
    aided = recorded["anchors_ab"]
    repeats = aided["n_per_level"][0] // case["n_per_level"][0]
    for name, ours in (("points", points), ("stride", strides)):
        levels = [level.repeat(repeats, 1) for level in ours.split(list(case["n_per_level"]))]
        cases.equal(f"positions of anchors: {name}", torch.cat(levels), aided[name])


def _with_positions(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    """Checked with the positions."""


def _check_assigners(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    anchors = recorded["anchors"]
    grid = Grid(anchors["points"], anchors["stride"], anchors["n_per_level"])
    for name, expected in case["cases"].items():
        predictions = Predictions(case["pd_scores"] * (0 if "zero_scores" in name else 1), case["pd_bboxes"])
        if "no_gt" in name:
            ours = nothing_to_find(predictions)
            cases.equal(
                f"{name}: labels", [float(x) for x in ours.labels.unique()], [*map(float, expected["label_values"])]
            )
            cases.equal(f"{name}: positives", float(ours.positive.sum()), float(expected["fg_sum"]))
            continue
        dtype = torch.float64 if name.endswith("f64") else torch.float32
        labels = case["gt_labels"][..., 0].long().clamp(min=0)
        objects = Objects(labels, case["gt_bboxes"].to(dtype), case["mask_gt"][..., 0].bool())
        assigner = adaptive_selection if name.startswith("atss") else _task_aligned(name)
        ours = assigner(predictions, grid, objects)
        # The authors' task alignment leaves a label at positions without an object, which nothing reads.
        where = expected["fg"] if name.startswith("tal") else torch.ones_like(expected["fg"])
        cases.equal(f"{name}: positives", ours.positive, expected["fg"])
        cases.equal(f"{name}: labels", ours.labels[where], expected["labels"].long()[where])
        cases.equal(f"{name}: boxes", ours.boxes[expected["fg"]], expected["bboxes_of_fg"])
        cases.close(f"{name}: scores", ours.scores[expected["fg"]], expected["scores_of_fg"], atol=1e-7)


def _task_aligned(name: str) -> Any:
    """The assigner of a case whose name may say its numbers, as tal_topk5_alpha05_beta2."""
    options: dict[str, Any] = {}
    for word in name.split("_"):
        if word.startswith("topk"):
            options["topk"] = int(word[4:])
        for key in ("alpha", "beta"):
            if word.startswith(key):
                digits = word.removeprefix(key)
                options[key] = float(f"{digits[0]}.{digits[1:] or 0}")
    return partial(task_aligned, **options)


def _check_suppression(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    selections = {
        "eval_003_065_multi": (Selection(), None),
        "infer_04_045": (Selection(0.4, 0.45, 1000, False), None),
        "agnostic": (Selection(0.25, 0.45, 20, False, True), None),
        "classes_0_2": (Selection(0.25, 0.45, 1000, False), [0, 2]),
    }
    for name, (select, classes) in selections.items():
        for image, rows in enumerate(case["pred"]):
            half = rows[:, 2:4] / 2
            boxes = torch.cat([rows[:, :2] - half, rows[:, :2] + half], 1)
            chosen, scores, labels = select(boxes, rows[:, 5:] * rows[:, 4:5])
            ours = torch.cat([chosen, scores[:, None], labels[:, None].float()], 1)
            if classes is not None:
                ours = ours[torch.isin(labels, torch.tensor(classes))]
            cases.close(f"suppression {name}, image {image}", ours, case[name][image])


CHECKS = {
    "blocks": _check_blocks,
    "iou_losses": _check_box_losses,
    "vfl": _check_vfl,
    "dfl": _check_dfl,
    "bbox2dist": _check_distances,
    "box_loss": _check_box_terms,
    "anchors": _check_positions,
    "anchors_ab": _with_positions,
    "anchors_eval": _with_positions,
    "assigners": _check_assigners,
    "nms": _check_suppression,
}
