"""Checks HRNet against recorded outputs of the authors': ``python -m tests.projects.hrnet.recorded FILE``.

Files of two kinds, which are told apart by their keys; the parts of other systems in them are checked by those systems'
own checkers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from densekit.projects.hrnet.backbone import NAMES, HRNetBackbone, HRNetV2pBackbone, norm_maker
from densekit.projects.hrnet.classification import ClassificationNeck
from densekit.projects.hrnet.head import HRNetV2Head
from densekit.projects.hrnet.network import HRNet, Stage
from densekit.projects.hrnet.pyramid import HRFPN
from densekit.projects.hrnet.weights import HEAD, NETWORK, PYRAMID
from densekit.weights.parts import find_layout
from tests.projects.hrnet.recorded_net import (
    IGNORE,
    WIDTHS,
    load,
    network_of,
    probe,
    published,
    renamed,
    seg_loss,
    shapes_of,
    starts_alike,
    train_pass,
)
from tests.projects.ocr.recorded import check_ocr, check_ocr_count, check_ocr_manifest, check_ocr_pieces
from tests.projects.pose.recorded import check_pose_net, check_pose_ops
from tests.recorded_cases import Cases, main

COUNTER = "num_batches_tracked"


def _segmenter_names(weights: Mapping[str, Any]) -> dict[str, Any]:
    return renamed(weights, ("", "backbone.", NETWORK), ("", "sem_seg_head.", HEAD))


def segmenter(
    network: HRNet,
    classes: int,
    kernel: int,
    momentum: float,
    align_corners: bool = False,
    out_features: Sequence[str] = NAMES,
) -> nn.Module:
    """Backbone and head under the names that they have in the host's model."""
    backbone = HRNetBackbone(network, out_features=list(out_features), divisibility=0)
    head = HRNetV2Head(
        backbone.output_shape(),
        num_classes=classes,
        norm=norm_maker("BN", momentum),
        final_kernel=kernel,
        align_corners=align_corners,
        ignore_value=IGNORE,
    )
    return nn.ModuleDict({"backbone": backbone, "sem_seg_head": head})


def check_segmentation(name: str, recorded: Mapping[str, Any], cases: Cases, align_corners: bool) -> None:
    """A network with HRNetV2's head."""
    weights = _segmenter_names(recorded["state_dict"])
    classes = weights["sem_seg_head.last_layer.3.bias"].numel()
    momentum = recorded["bn_momentum"][0]
    network = network_of(
        recorded["cfg"],
        norm=norm_maker("BN", momentum),
        fuse="bilinear",
        align_corners=align_corners,
        init="normal",
    )
    model: Any = segmenter(network, classes, recorded["cfg"]["FINAL_CONV_KERNEL"], momentum, align_corners)
    starts_alike(cases, name, model, recorded["init_stats"], _segmenter_names)
    load(model, weights)

    def forward(x: Tensor) -> Tensor:
        return model["sem_seg_head"].layers(model["backbone"](x))

    model.eval()
    with torch.no_grad():
        scores = forward(recorded["x"])
    cases.close(f"{name}: scores", scores, recorded["out_eval"])
    cases.equal(f"{name}: momentum", {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)}, {momentum})
    if "label" not in recorded:
        return
    label, class_weights = recorded["label"], recorded.get("class_weights")
    for key, value in recorded["losses_eval"].items():
        cases.close(f"{name}: {key} of scores in eval mode", seg_loss(key, scores, label, class_weights), value)

    def loss(outputs: Tensor) -> Tensor:
        for key, value in recorded["losses_train"].items():
            cases.close(f"{name}: {key} in train mode", seg_loss(key, outputs, label, class_weights), value)
        return seg_loss(recorded["grads_of"], outputs, label, class_weights)

    train_pass(cases, name, recorded, model, forward, _segmenter_names, loss)


def check_ohem(recorded: Mapping[str, Any], cases: Cases) -> None:
    """OHEM on plain maps, with gradients."""
    for (threshold, kept), (value, gradient) in recorded["cases"].items():
        scores = recorded["score"].clone().requires_grad_()
        loss = seg_loss(f"ohem_t{threshold}_k{kept}", scores, recorded["label"], None)
        cases.close(f"ohem {threshold} {kept}", loss, value)
        (ours,) = torch.autograd.grad(loss, scores)
        cases.close(f"ohem {threshold} {kept}: gradient", ours, gradient)


def _classifier_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"neck.{k}" if k.startswith(("incre", "downs", "final")) else f"network.{k}": v for k, v in weights.items()}


def _linear_apart(weights: Mapping[str, Any]) -> dict[str, Any]:
    renamed = _classifier_names(weights)
    return {name.replace("network.classifier", "classifier"): value for name, value in renamed.items()}


def check_classifier(recorded: Mapping[str, Any], cases: Cases) -> None:
    """The neck for classification."""
    momentum, channels = recorded["bn_momentum"][0], recorded["cfg"]["STAGE4"]["NUM_CHANNELS"]
    norm = norm_maker("BN", momentum)
    network = network_of(recorded["cfg"], norm=norm)
    neck = ClassificationNeck(
        in_channels=channels, channels=recorded["head_channels"], out_channels=recorded["final"], norm=norm
    )
    linear = nn.Linear(recorded["final"], recorded["classes"])
    model = nn.ModuleDict({"network": network, "neck": neck, "classifier": linear})
    starts_alike(cases, "cls", model, recorded["init_stats"], _linear_apart)
    load(model, _linear_apart(recorded["state_dict"]))

    def forward(x: Tensor) -> Tensor:
        return linear(neck(network(x)))

    model.eval()
    with torch.no_grad():
        cases.close("cls: scores", forward(recorded["x"]), recorded["out_eval"])
    train_pass(cases, "cls", recorded, model, forward, _linear_apart, probe)
    expected = {f"backbone.network.{name}" for name in network.state_dict() if not name.endswith(COUNTER)}
    cases.equal("cls: what a backbone takes", set(_converted(recorded["state_dict"])), expected)


def check_pyramid(recorded: Mapping[str, Any], cases: Cases) -> None:
    """The pyramid alone."""
    convert = _pyramid_names
    for pooling, case in recorded["cases"].items():
        if pooling == "init_stats":
            continue
        weights = convert(case["state_dict"])
        pyramid = HRFPN(
            in_channels=sum(x.shape[1] for x in recorded["feats"]),
            out_channels=weights["reduction.bias"].numel(),
            levels=len(case["outs"]),
            pooling=pooling.lower(),
        )
        if "init_stats" in recorded["cases"]:
            starts_alike(cases, f"hrfpn {pooling}", pyramid, recorded["cases"]["init_stats"], convert)
        load(pyramid, weights)
        with torch.no_grad():
            cases.close(f"hrfpn {pooling}", pyramid(recorded["feats"]), case["outs"])


def _pyramid_names(weights: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("pyramid."): x for name, x in renamed(weights, ("", "", PYRAMID)).items()}


def _in_pyramid(weights: Mapping[str, Any]) -> dict[str, Any]:
    return renamed(weights, (r"backbone\.", "bottom_up.", NETWORK), (r"neck\.", "", PYRAMID))


def _converted(weights: Mapping[str, Tensor], model: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """What a checkpointer makes of a whole file."""
    layout = find_layout(weights)
    if layout is None:
        raise ValueError("The names of the file are not recognised.")
    return layout.convert(dict(weights), None if model is None else dict(model))


def check_detection(recorded: Mapping[str, Any], cases: Cases) -> None:
    """Backbone and pyramid of the detectors, whose statistics stay as they are in training."""
    state, channels = recorded["state_dict"], tuple(recorded["channels"])
    inner = state["backbone.layer1.0.conv1.weight"].shape[0]
    bottlenecks = _count(state, "backbone.layer1.")
    stages = [
        Stage(
            _count(state, f"backbone.stage{k}."),
            tuple(_count(state, f"backbone.stage{k}.0.branches.{b}.") for b in range(k)),
            channels[:k],
        )
        for k in (2, 3, 4)
    ]
    network = HRNet(
        bottlenecks=bottlenecks,
        bottleneck_channels=inner,
        stages=stages,
        norm=norm_maker("BN", recorded["bn_momentum"][0]),
    )
    bottom_up = HRNetBackbone(network, out_features=list(NAMES), norm_eval="norm_eval" in recorded["note"])
    width = recorded["neck_out"]
    pyramid = HRFPN(in_channels=sum(channels), out_channels=width, levels=len(recorded["out_eval"]) - len(channels))
    model = HRNetV2pBackbone(bottom_up, pyramid, out_channels=width)
    starts_alike(cases, "det_hrfpn", model, recorded["init_stats"], _in_pyramid)
    load(model, _in_pyramid(state))

    def forward(x: Tensor) -> list[Tensor]:
        maps = list(model.bottom_up(x).values())
        return [*maps, *model.pyramid(maps)]

    model.eval()
    with torch.no_grad():
        cases.close("det_hrfpn: maps and pyramid", forward(recorded["x"]), recorded["out_eval"])
        levels = list(model(recorded["x"]).values())
    cases.close("det_hrfpn: pyramid as the host has it", levels, recorded["out_eval"][len(channels) :])
    train_pass(cases, "det_hrfpn", recorded, model, forward, _in_pyramid, probe)


def _count(names: Any, prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)})


def check_counts(recorded: Mapping[str, Mapping[str, int]], cases: Cases) -> None:
    """Numbers of parameters of the published sizes."""
    networks = {name: published(width) for name, width in WIDTHS.items()}
    networks["w18_small_v1"] = published(16, (1, 1, 1), 2, 1, 32)
    networks["w18_small_v2"] = published(18, (1, 3, 2), 2, 2)
    for name, counts in recorded.items():
        if name.startswith("ocr_"):
            check_ocr_count(name, counts, cases)
            continue
        if name not in networks:
            cases.not_checked(f"param_counts {name}", "its sizes are not known")
            continue
        for part, count in counts.items():
            kind, *numbers = part.split("_")
            cases.equal(f"parameters of {name} {part}", _parameters(networks[name], kind, numbers, name), count)


def _parameters(network: HRNet, kind: str, numbers: Sequence[str], name: str) -> int:
    """Of the backbone, or of a whole net with a head of so many classes, joints or channels."""

    def size(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    width, channels = sum(network.channels), network.channels
    if kind == "backbone":
        return size(network)
    if kind == "seg":
        return size(network) + width * (width + 1 + 2 + int(numbers[0])) + int(numbers[0])
    if kind == "hrfpn":
        with torch.device("meta"):
            return size(HRFPN(in_channels=width, out_channels=int(numbers[0])))
    if kind == "cls":
        with torch.device("meta"):
            neck = ClassificationNeck(in_channels=channels, norm=nn.BatchNorm2d)
        return size(network) + size(neck) + 2049 * int(numbers[0])
    joints = int(numbers[0])
    return size(published(channels[0], outputs=1)) + (channels[0] + 1) * joints


def check_manifests(recorded: Mapping[str, Mapping[str, Sequence[int]]], cases: Cases) -> None:
    """Every name of the published files has its place, and every place its name, with the same shape."""
    for name, shapes in recorded.items():
        weights = {key: torch.empty(tuple(shape), device="meta") for key, shape in shapes.items()}
        kind, size = name.split("_")[:2]
        if kind == "ocr":
            check_ocr_manifest(name, weights, cases)
            continue
        network = published(WIDTHS[size])
        expected = {f"backbone.network.{key}": value.shape for key, value in network.state_dict().items()}
        if kind == "cls":
            with torch.device("meta"):
                neck = ClassificationNeck(in_channels=network.channels, norm=nn.BatchNorm2d)
            names = {f"network.{key}": value.shape for key, value in network.state_dict().items()}
            names |= {f"neck.{key}": value.shape for key, value in neck.state_dict().items()}
            classes = weights["classifier.weight"].shape[0]
            names |= {"classifier.weight": torch.Size([classes, 2048]), "classifier.bias": torch.Size([classes])}
            found = {key: value.shape for key, value in _linear_apart(weights).items()}
            cases.equal(f"manifest {name}, with its neck", found, names)
            expected = {key: shape for key, shape in expected.items() if not key.endswith(COUNTER)}
            found = {key: value.shape for key, value in _converted(weights).items()}
        elif kind == "seg":
            with torch.device("meta"):
                classes, _, kernel, _ = weights["last_layer.3.weight"].shape
                model = segmenter(network, classes, kernel, 0.01)
            expected = shapes_of(model)
            prefixed = {f"model.{key}": value for key, value in weights.items()}
            found = {key: value.shape for key, value in _converted(prefixed).items()}
        else:
            with torch.device("meta"):
                width = weights["neck.reduction_conv.0.bias"].numel()
                pyramid = HRFPN(in_channels=sum(network.channels), out_channels=width)
            expected = {key.replace("backbone.", "backbone.bottom_up."): shape for key, shape in expected.items()}
            expected |= {f"backbone.pyramid.{key}": value.shape for key, value in pyramid.state_dict().items()}
            found = {key: value.shape for key, value in _converted(weights).items()}
        cases.equal(f"manifest {name}", found, expected)


def check(recorded: Mapping[str, Any], cases: Cases) -> None:
    """Checks one file."""
    cases.not_checked([key for key in ("about", "source") if key in recorded], "it is a description")
    for key, part in recorded.items():
        if key.startswith("seg_"):
            check_segmentation(key, part, cases, align_corners="align_true" in key)
        elif key == "ohem":
            check_ohem(part, cases)
        elif key == "cls":
            check_classifier(part, cases)
        elif key == "hrfpn":
            check_pyramid(part, cases)
        elif key == "det_hrfpn":
            check_detection(part, cases)
        elif key == "param_counts":
            check_counts(part, cases)
        elif key == "manifest":
            check_manifests(part, cases)
        elif key == "ocr":
            check_ocr(part, cases)
        elif key == "ocr_pieces":
            check_ocr_pieces(part, cases)
        elif key == "pose_v1":
            check_pose_net(part, cases)
        elif key == "pose_ops":
            check_pose_ops(part, cases)
        elif key not in ("about", "source"):
            cases.not_checked(key, "it is unknown")


if __name__ == "__main__":
    main(check)
