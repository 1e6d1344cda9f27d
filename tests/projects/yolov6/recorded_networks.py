"""Recorded whole networks: training, evaluation and deployed form, losses, gradients, distillation, counts."""

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from densekit.projects.yolov6.assignment import Objects, adaptive_selection, task_aligned
from densekit.projects.yolov6.blocks import PoolingPyramid
from densekit.projects.yolov6.criterion import DetectionLoss
from densekit.projects.yolov6.distillation import Lesson, channel_divergence, teacher_share
from densekit.projects.yolov6.head import ANCHOR_SIZES, EfficientDecoupledHead, HeadOutputs
from densekit.projects.yolov6.network import EfficientRep, RepPAN, body_options, neck_options
from densekit.projects.yolov6.units import QARepVGGUnit, fuse
from densekit.projects.yolov6.weights import NAME
from densekit.weights.parts import rename_part
from tests.recorded_cases import Cases

Recorded = Mapping[str, Any]
STRIDES = [8, 16, 32]
UNITS = {"repvgg": "repvgg", "qarepvggv2": "qarepvgg", "conv_relu": "conv_relu", "conv_silu": "conv_silu"}
# The two fixed tables of bin numbers that the authors' head counts among its parameters.
FIXED = ("detect.proj", "detect.proj_conv.weight")


class Network(nn.Module):
    """Body, neck and head under the names that the detector gives them."""

    def __init__(self, *, options: dict[str, Any], pool: str, finer: bool, head: dict[str, Any]) -> None:
        super().__init__()
        size = {key: options[key] for key in ("depth", "width", "stage")}
        kind = {key: options[key] for key in ("stage", "unit", "expansion")}
        body = body_options(**size)
        self.levels = 4 if finer else 3
        neck = RepPAN(in_channels=body["channels"][-self.levels :], finer=finer, **neck_options(**size), **kind)
        self.backbone = nn.ModuleDict({"bottom_up": EfficientRep(pool=pool, **body, **kind), "neck": neck})
        self.head = EfficientDecoupledHead(in_channels=neck.out_channels, strides=STRIDES, **head)

    def features(self, images: Tensor) -> list[Tensor]:
        return self.backbone["neck"](self.backbone["bottom_up"](images)[-self.levels :])

    def forward(self, images: Tensor) -> HeadOutputs:
        return self.head(self.features(images))


def network_of(state: Recorded, cfg: Recorded, num_classes: int) -> Network:
    """An empty network of the form that the names and shapes of a recorded one tell."""
    second = "backbone.ERBlock_2.1."
    stage = "csp" if any(name.startswith(f"{second}cv3") for name in state) else "rep"
    stage = "mbla" if f"{second}m.0.0.alpha" in state else stage
    expansion = 0.5
    if stage == "csp":
        last = next(v for k, v in state.items() if k.startswith("backbone.ERBlock_5.1.cv1") and k.endswith("v.weight"))
        expansion = 0.5 if last.shape[0] / last.shape[1] < 0.6 else 2 / 3
    unit = UNITS[cfg["mode"]] + ("_bias" if "backbone.stem.block.conv.bias" in state else "")
    pool = "cspsppf" if any(".cspsppf." in name for name in state) else "sppf"
    bins = cfg["reg_max"] + 1 if cfg["use_dfl"] else 1
    taught = cfg.get("distill_ns", False)
    return Network(
        options={"depth": cfg["depth"], "width": cfg["width"], "stage": stage, "unit": unit, "expansion": expansion},
        pool=pool if "silu" in unit else f"sim{pool}",
        finer=any(name.startswith("neck.Bifusion") for name in state),
        head={
            "num_classes": num_classes,
            "num_bins": 1 if taught else bins,
            "extra_bins": bins if taught else 0,
            "anchor_sizes": ANCHOR_SIZES if cfg.get("fuse_ab") else (),
        },
    )


def converted(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Recorded entries under our names, slot by slot, for a list of them may lack a slot."""
    places = {"backbone": "backbone.bottom_up.", "neck": "backbone.neck.", "detect": "head."}
    result = {}
    for theirs, ours in places.items():
        own = {name.removeprefix(f"{theirs}."): v for name, v in values.items() if name.startswith(f"{theirs}.")}
        if own:
            renamed_part = rename_part(NAME, "head" if theirs == "detect" else theirs, own)
            result |= {ours + name: value for name, value in renamed_part.items()}
    return result


def rename(values: Mapping[str, Any], rules: list[tuple[str, str]]) -> dict[str, Any]:
    """Entries under the names that the first rule that fits gives them."""
    result = {}
    for name, value in values.items():
        match, new = next((m, new) for pattern, new in rules if (m := re.fullmatch(pattern, name)))
        result[match.expand(new)] = value
    return result


def loaded(case: Recorded, num_classes: int) -> Network:
    network = network_of(case["state_dict"], case["cfg"], num_classes)
    network.load_state_dict(converted({name: value.float() for name, value in case["state_dict"].items()}))
    return network


def renamed(values: Recorded) -> dict[str, Any]:
    """Recorded values under our names; of what has no counterpart here they are left out."""
    indices = converted({name: torch.tensor(i) for i, name in enumerate(values)})
    every = list(values.values())
    return {name: every[int(i)] for name, i in indices.items()}


def check_network(name: str, case: Recorded, cases: Cases, recorded: Recorded) -> None:
    """Checks one reduced network in its three forms."""
    classes = int(recorded["nc"])
    images = case["x_uint8"].float() / 255
    network = loaded(case, classes)
    fixed = sum(case["state_dict"][key].numel() for key in FIXED)
    cases.equal(f"{name}: parameters", _parameters(network) + fixed, case["n_params"])
    check_initial_weights(name, network, case, cases)
    network.train()
    features = network.features(images)
    outputs = network.head(features)
    _check_train_outputs(name, outputs, case, cases)
    _check_losses(name, network, outputs, case, cases)
    if "buffers_after_train" in case:
        buffers = dict(network.named_buffers())
        expected = renamed(case["buffers_after_train"])
        cases.close(f"{name}: running statistics", {key: buffers[key] for key in expected}, expected)
    _check_evaluation(name, loaded(case, classes).eval(), images, fixed, case, cases)


def check_initial_weights(name: str, network: Network, case: Recorded, cases: Cases) -> None:
    """A fresh network starts as the authors' does: constants are equal, random weights have their bounds."""
    fresh = network_of(case["state_dict"], case["cfg"], len(network.head.levels[0].classes.bias))
    state, differ = fresh.state_dict(), []
    for key, (mean, _, low, high, count) in renamed(case["init_stats"]).items():
        value = state[key].float()
        constant = abs(high - low) < 1e-9
        bound = max(abs(low), abs(high))
        same = torch.allclose(value, value.new_tensor(mean)) if constant else 0.5 < value.abs().max() / bound < 2
        # Few numbers may lie anywhere in their bounds.
        if value.numel() != count or not (same or (not constant and count < 30)):
            differ.append(key)
    cases.equal(f"{name}: initial weights that differ", differ, [])


def _check_train_outputs(name: str, outputs: HeadOutputs, case: Recorded, cases: Cases) -> None:
    theirs = list(case["train_out"])
    if case["cfg"].get("distill_ns"):
        ours = [outputs.logits.sigmoid(), outputs.bins, outputs.distances]
    else:
        ours = [outputs.logits.sigmoid(), outputs.distances]
    if outputs.anchor_logits is not None:
        points, strides = _anchor_grid(outputs)
        boxes = outputs.anchor_boxes
        middle, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
        raw = torch.cat([(middle - points) / strides, size / strides], -1)
        ours = [outputs.anchor_logits.sigmoid(), raw, *ours]
    cases.close(f"{name}: training outputs", ours, theirs)


def _anchor_grid(outputs: HeadOutputs) -> tuple[Tensor, Tensor]:
    from densekit.projects.yolov6.points import positions

    points, strides = [], []
    for size, stride, anchors in zip(outputs.sizes, STRIDES, ANCHOR_SIZES):
        point, step = positions([size], [stride], outputs.logits)
        points.append(point.repeat(len(anchors), 1))
        strides.append(step.repeat(len(anchors), 1))
    return torch.cat(points), torch.cat(strides)


def criterion(box_loss: str, least: float) -> DetectionLoss:
    return DetectionLoss(
        strides=STRIDES,
        box_loss=box_loss,
        least_score_sum=least,
        anchor_assigner=partial(task_aligned, topk=26),
    )


def objects_of(targets: Tensor, images: int, size: tuple[int, int]) -> Objects:
    """Recorded rows (image, class, cx, cy, w, h in 0 .. 1) as the authors' loss has them, in float64."""
    rows = targets.double()
    scale = rows.new_tensor([size[1], size[0], size[1], size[0]])
    labels, boxes = [], []
    for image in range(images):
        own = rows[rows[:, 0] == image]
        middle, half = (own[:, 2:] * scale).split(2, 1)
        labels.append(own[:, 1].long())
        boxes.append(torch.cat([middle - half / 2, middle + half / 2], 1))
    return Objects.of(labels, boxes)


def _check_losses(name: str, network: Network, outputs: HeadOutputs, case: Recorded, cases: Cases) -> None:
    if "losses" not in case:
        return
    size = (case["x_uint8"].shape[-2], case["x_uint8"].shape[-1])
    objects = objects_of(case["targets"], len(case["x_uint8"]), size)
    none = objects_of(case["targets"][:0], len(case["x_uint8"]), size)
    # The release of the paper divides by any sum of scores above 0, the later ones by those above 1.
    loss = criterion(case["cfg"]["iou_type"], 0.0 if "grads_tal" in case else 1.0)
    for kind, (total, parts) in case["losses"].items():
        assigner = adaptive_selection if kind.startswith("atss") else task_aligned
        losses = loss(outputs, none if kind == "no_objects" else objects, assigner)
        box, bins, classes = (losses.get(f"loss_{key}", torch.zeros(())) for key in ("box", "dfl", "cls"))
        if kind == "ab":
            box, classes = losses["loss_box_anchor"], losses["loss_cls_anchor"]
        cases.close(f"{name}: losses {kind}", [box + bins + classes, box, bins, classes], [total, *parts])
    grads = case.get("grads", case.get("grads_tal"))
    kinds = ("tal", "ab") if outputs.anchor_logits is not None else ("tal",)
    losses = loss(outputs, objects, task_aligned)
    keys = [key for key in losses if "anchor" not in key or "ab" in kinds]
    network.zero_grad()
    sum(losses[key] for key in keys).backward(retain_graph=True)
    check_gradients(f"{name}: gradients", network, grads, cases)


def check_gradients(name: str, network: nn.Module, grads: Recorded, cases: Cases) -> None:
    """Sums and norms of the gradients; a sum is judged by the norm, whose terms it adds up."""
    ours = {key: value.grad for key, value in network.named_parameters()}
    expected = renamed(grads)
    scale = {key: norm + 0.1 for key, (_, norm) in expected.items()}  # so 1e-4 and a thousandth of the norm
    cases.close(
        name,
        {key: [_sum(ours[key]) / scale[key], _norm(ours[key]) / scale[key]] for key in expected},
        {key: [total / scale[key], norm / scale[key]] for key, (total, norm) in expected.items()},
        atol=1e-3,
    )


def _sum(value: Tensor | None) -> float:
    return 0.0 if value is None else float(value.double().sum())


def _norm(value: Tensor | None) -> float:
    return 0.0 if value is None else float(value.double().norm())


def rows_of(network: Network, images: Tensor) -> Tensor:
    """The authors' evaluation rows: cx, cy, w, h, 1 and the scores of the classes."""
    boxes, scores = network.head.decode(network(images))
    middle, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    return torch.cat([middle, size, torch.ones_like(scores[..., :1]), scores], -1)


@torch.no_grad()
def _check_evaluation(name: str, network: Network, images: Tensor, fixed: int, case: Recorded, cases: Cases) -> None:
    features = network.features(images)
    if "shapes" in case:
        cases.equal(f"{name}: shapes of the levels", [tuple(x.shape) for x in features], [*case["shapes"]])
        cases.close(f"{name}: deviation of the levels", [float(x.std()) for x in features], case["neck_std"])
    before = rows_of(network, images)
    cases.close(f"{name}: evaluation", before, case["eval_out"])
    # The authors keep the norm of QARepVGG's sum and the predictors of the training.
    norms = sum(2 * len(module.norm.weight) for module in network.modules() if isinstance(module, QARepVGGUnit))
    extra = [part for level in network.head.levels for part in (level.bins, level.anchor_classes, level.anchor_boxes)]
    kept = norms + sum(_parameters(part) for part in extra if part is not None)
    fuse(network)
    after = rows_of(network, images)
    cases.close(f"{name}: deployed", after, case["deploy_out"])
    # Pixels of boxes relative to the image's size.
    cases.close(
        f"{name}: fused equals unfused", after / max(images.shape[-2:]), before / max(images.shape[-2:]), atol=1e-5
    )
    cases.equal(f"{name}: deployed parameters", _parameters(network) + fixed + kept, case["deploy_n_params"])
    if "deploy_shapes" in case and not norms:  # of body and neck
        ours = sorted(tuple(value.shape) for value in network.backbone.state_dict().values())
        theirs = sorted(map(tuple, case["deploy_shapes"].values()))
        cases.equal(f"{name}: deployed shapes", ours, theirs)


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def outputs_from(parts: list[Tensor], size: tuple[int, int]) -> HeadOutputs:
    """Head outputs from recorded probabilities and distances."""
    sizes = [(size[0] // stride, size[1] // stride) for stride in STRIDES]
    # Of float64, so that the logarithm of a probability loses nothing.
    logits = torch.logit(parts[0].double()).float()
    if len(parts) == 3:
        return HeadOutputs(logits, parts[2], sizes, bins=parts[1])
    return HeadOutputs(logits, parts[1], sizes)


def _check_distillation(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    images = len(case["student"][0])
    size = case.get("hw") or tuple(8 * side for side in case["student_feats"][0].shape[-2:])
    objects = objects_of(case["targets"], images, size)
    student, teacher = (outputs_from(list(case[key]), size) for key in ("student", "teacher"))
    paper = "hw" not in case
    loss = criterion("siou" if student.bins is not None else "giou", 0.0)
    for key, (total, parts) in case["losses"].items():
        epoch, epochs = key[-1] if isinstance(key, tuple) else key, 400 if paper else 300
        class_weight = (
            key[0] if isinstance(key, tuple) and len(key) == 3 else (1.0 if student.bins is not None else 0.8)
        )
        with_features = key[-2] if isinstance(key, tuple) else False
        share = teacher_share(epoch / epochs)
        lesson = Lesson(teacher, share=share, class_weight=class_weight)
        assigner = adaptive_selection if paper and epoch < 4 else task_aligned
        losses = loss(student, objects, assigner, lesson)
        channels = torch.zeros(())
        if with_features:
            channels = 10 * share * channel_divergence(case["student_feats"], case["teacher_feats"])
        ours = [losses["loss_box"], losses["loss_dfl"], losses["loss_cls"], channels]
        cases.close(f"distillation {key}", [sum(ours), *ours], [total, *parts], rtol=3e-4)
    if "cosine_weight" in case:
        ours = {epoch: teacher_share(epoch / 300) for epoch in case["cosine_weight"]}
        cases.close("distillation: share of the teacher", ours, case["cosine_weight"], atol=1e-10, rtol=0)
    for key in case:
        if key.startswith("grads_"):
            _check_taught_gradients(key, case, cases, recorded)


def _check_taught_gradients(key: str, case: Recorded, cases: Cases, recorded: Recorded) -> None:
    """Gradients of a student; the name says class weight in tenths and the epoch."""
    words = key.removeprefix("grads_class").split("_")
    class_weight, epoch = int(words[0]) / 10, int(words[-1].removeprefix("epoch"))
    model = next(value for name, value in recorded.items() if name.endswith("m_csp"))
    network = loaded(model, int(recorded["nc"])).train()
    features = network.features(model["x_uint8"].float() / 255)
    share = teacher_share(epoch / 300)
    lesson = Lesson(outputs_from(list(case["teacher"]), case["hw"]), share=share, class_weight=class_weight)
    objects = objects_of(case["targets"], len(model["x_uint8"]), case["hw"])
    losses = criterion("giou", 0.0)(network.head(features), objects, task_aligned, lesson)
    total = sum(losses.values()) + 10 * share * channel_divergence(features, case["teacher_feats"])
    total.backward()
    check_gradients(f"distillation: {key}", network, case[key], cases)


def _check_pools(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    for name, part in case.items():
        state = {key.replace("cv1.", "enter.").replace("cv2.", "leave."): v for key, v in part["state_dict"].items()}
        state = {key.replace(".bn.", ".norm."): value.float() for key, value in state.items()}
        kind = "relu" if name.startswith("Sim") else "silu"
        pool = PoolingPyramid(part["x"].shape[1], part["y"].shape[1], activation=kind).eval()
        pool.load_state_dict(state)
        for module in pool.modules():  # recorded outside of a network, which would set it
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-5
        cases.close(f"pooling pyramid {name}", pool(part["x"]), part["y"])


# Depth, width, stage, unit, expansion, pool, bins; of the later releases in their own neck.
_SIZES: dict[str, tuple[float, float, str, str, float, str, int]] = {
    "n": (0.33, 0.25, "rep", "repvgg", 0.5, "sppf", 1),
    "t": (0.33, 0.375, "rep", "repvgg", 0.5, "sppf", 1),
    "s": (0.33, 0.5, "rep", "repvgg", 0.5, "sppf", 1),
    "m": (0.6, 0.75, "csp", "repvgg", 2 / 3, "sppf", 17),
    "l": (1.0, 1.0, "csp", "conv_silu", 0.5, "sppf", 17),
    "l_relu": (1.0, 1.0, "csp", "repvgg", 0.5, "sppf", 17),
    "s_mbla": (0.5, 0.5, "mbla", "conv_silu", 0.5, "sppf", 17),
}


def full_network(name: str, *, paper: bool) -> Network:
    """A network of a published size with 80 classes, on the meta device, where its weights take no time."""
    depth, width, stage, unit, expansion, pool, bins = _SIZES[name]
    later = not paper and name != "t"
    if later and stage == "rep":
        pool = "cspsppf"
    if paper and unit == "conv_silu":
        unit = "conv_silu_bias"
    with torch.device("meta"):
        return Network(
            options={"depth": depth, "width": width, "stage": stage, "unit": unit, "expansion": expansion},
            pool=pool if "silu" in unit else f"sim{pool}",
            finer=later,
            head={"num_classes": 80, "num_bins": bins},
        )


def _check_counts(counts: Recorded, cases: Cases, recorded: Recorded) -> None:
    paper = "l_relu" in counts
    fixed = 34  # 17 numbers of bins, twice
    for name, expected in counts.items():
        if name not in _SIZES:
            why = "P6 forms are not built" if name.endswith("6") else "the base forms have no published recipe here"
            cases.not_checked(f"counts of {name}", why)
            continue
        network = full_network(name, paper=paper)
        cases.equal(f"{name}: parameters", _parameters(network) + fixed, expected["train"])
        cases.close(f"{name}: GFLOPs", gflops(network), expected["gflops_train"], atol=0, rtol=1e-9)
        fuse(network)
        cases.equal(f"{name}: deployed parameters", _parameters(network) + fixed, expected["deploy"])
        cases.close(f"{name}: deployed GFLOPs", gflops(network), expected["gflops_deploy"], atol=0, rtol=1e-9)


def gflops(network: Network, side: int = 640) -> float:
    """Operations as the authors' counter has them, which multiplies transposed convolutions by the size of the output.

    Two for each product of a convolution, eight for each number that a norm lets through.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            total += 2 * output.numel() * module.in_channels * math.prod(module.kernel_size)
        elif isinstance(module, nn.BatchNorm2d):
            total += 8 * output.numel()

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    outputs = network.eval()(torch.zeros(1, 3, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    means_of_bins = 2 * outputs.distances.numel() if network.head.num_bins > 1 else 0
    return (total + means_of_bins) / 1e9


def _check_manifest(name: str, manifest: Recorded, cases: Cases, recorded: Recorded) -> None:
    """Every name and shape of a full-size model has its place."""
    paper = not any(key.startswith("neck.Bifusion") for key in manifest)
    state = full_network(name, paper=paper).state_dict()
    theirs = {key: tuple(shape) for key, shape in renamed(manifest).items()}
    ours = {key: tuple(value.shape) for key, value in state.items() if "num_batches" not in key}
    cases.equal(f"manifest of {name}", ours, theirs)


CHECKS = {
    "distill_m": _check_distillation,
    "distill_ns": _check_distillation,
    "sppf": _check_pools,
    "param_counts": _check_counts,
    "manifest_s": partial(_check_manifest, "s"),
    "manifest_m": partial(_check_manifest, "m"),
}
