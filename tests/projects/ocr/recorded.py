"""Checks OCR against recorded outputs of the authors', the parts of files that ``tests.projects.hrnet.recorded`` reads:
``python -m tests.projects.ocr.recorded FILE``.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from densekit.layers.pixel_losses import PixelLoss
from densekit.projects.hrnet.backbone import NAMES, HRNetBackbone, norm_maker
from densekit.projects.hrnet.network import HRNet
from densekit.projects.hrnet.weights import NETWORK
from densekit.projects.ocr.context import ObjectContext, region_representations
from densekit.projects.ocr.head import OCRHead
from densekit.projects.ocr.weights import HEAD
from tests.projects.hrnet.recorded_net import (
    IGNORE,
    WIDTHS,
    load,
    network_of,
    published,
    renamed,
    seg_loss,
    shapes_of,
    starts_alike,
    train_pass,
)
from tests.recorded_cases import Cases, main


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the authors' names to those of the host's model."""
    return renamed(weights, ("", "backbone.", NETWORK), ("", "sem_seg_head.", HEAD))


def segmenter(network: HRNet, classes: int, channels: int, key_channels: int, momentum: float) -> nn.Module:
    """Backbone and head under the names that they have in the host's model."""
    backbone = HRNetBackbone(network, out_features=list(NAMES), divisibility=0)
    head = OCRHead(
        backbone.output_shape(),
        channels=channels,
        key_channels=key_channels,
        num_classes=classes,
        norm=norm_maker("BN", momentum),
        dropout=0.0,
        align_corners=True,
        ignore_value=IGNORE,
        region_criterion=PixelLoss(ignore_value=IGNORE, terms={"cross_entropy": 1.0}),
    )
    return nn.ModuleDict({"backbone": backbone, "sem_seg_head": head})


def check_ocr(recorded: Mapping[str, Any], cases: Cases) -> None:
    """A whole net: coarse and final scores, losses, gradients."""
    momentum = recorded["bn_momentum"][0]
    weights = convert(recorded["state_dict"])
    network = network_of(
        recorded["cfg"], norm=norm_maker("BN", momentum), fuse="bilinear", align_corners=True, init="normal"
    )
    classes = weights["sem_seg_head.predictor.bias"].numel()
    model: Any = segmenter(network, classes, recorded["mid"], recorded["key"], momentum)
    starts_alike(cases, "ocr", model, recorded["init_stats"], convert)
    load(model, weights)

    def forward(x: Tensor) -> list[Tensor]:
        return list(model["sem_seg_head"].both_scores(model["backbone"](x)))

    label = recorded["label"]

    def loss_of(key: str, outputs: list[Tensor]) -> Tensor:
        coarse, scores = outputs
        main_key = "ce" if key.startswith("ce") else key
        weight = model["sem_seg_head"].region_loss_weight
        coarse_loss = seg_loss("ce", coarse, label, None, align=True)
        if main_key != "ce":  # with OHEM the authors divide the coarse loss by all pixels, densekit by labelled ones
            coarse_loss = coarse_loss * (label != IGNORE).float().mean()
        return weight * coarse_loss + seg_loss(main_key, scores, label, None, align=True)

    model.eval()
    with torch.no_grad():
        outputs = forward(recorded["x"])
    cases.close("ocr: coarse and final scores", outputs, recorded["out_eval"])
    for key, value in recorded["losses_eval"].items():
        cases.close(f"ocr: {key} of scores in eval mode", loss_of(key, outputs), value)

    def loss(outputs: list[Tensor]) -> Tensor:
        for key, value in recorded["losses_train"].items():
            cases.close(f"ocr: {key} in train mode", loss_of(key, outputs), value)
        return loss_of(recorded["grads_of"], outputs)

    train_pass(cases, "ocr", recorded, model, forward, convert, loss)


def check_ocr_pieces(recorded: Mapping[str, Any], cases: Cases) -> None:
    """The representations of regions, and the attention."""
    features, scores = recorded["feats"], recorded["probs"]
    with torch.no_grad():
        regions = region_representations(features, scores)
        cases.close("ocr: representations of regions", regions.unsqueeze(3), recorded["context"])
        block = ObjectContext(
            channels=recorded["in_channels"],
            key_channels=recorded["key_channels"],
            dropout=0.0,
            norm=nn.BatchNorm2d,
        ).attention
        prefix = "ocr_distri_head.object_context_block."
        weights = convert({prefix + name: value for name, value in recorded["block_state_dict"].items()})
        stem = "sem_seg_head.context.attention."
        load(block, {name.removeprefix(stem): value for name, value in weights.items()})
        block.eval()
        cases.close("ocr: attention", block(features, regions), recorded["block_out"])


def _published(name: str) -> nn.Module:
    _, size, classes = name.split("_")[:3]
    with torch.device("meta"):
        return segmenter(published(WIDTHS[size]), int(classes), 512, 256, 0.1)


def check_ocr_count(name: str, count: int, cases: Cases) -> None:
    """The number of parameters of a published size, such as ``ocr_w48_19``."""
    cases.equal(f"parameters of {name}", sum(p.numel() for p in _published(name).parameters()), count)


def check_ocr_manifest(name: str, weights: Mapping[str, Tensor], cases: Cases) -> None:
    """Every name of the published file has its place, and every place its name."""
    found = {key: value.shape for key, value in convert(weights).items()}
    cases.equal(f"manifest {name}", found, shapes_of(_published(name)))


def check(recorded: Mapping[str, Any], cases: Cases) -> None:
    """Checks the parts of one file that are OCR's."""
    for key, part in recorded.items():
        if key == "ocr":
            check_ocr(part, cases)
        elif key == "ocr_pieces":
            check_ocr_pieces(part, cases)
        elif key in ("param_counts", "manifest"):
            for name in (name for name in part if name.startswith("ocr_")):
                if key == "param_counts":
                    check_ocr_count(name, part[name], cases)
                else:
                    shapes = {k: torch.empty(tuple(v), device="meta") for k, v in part[name].items()}
                    check_ocr_manifest(name, shapes, cases)
        else:
            cases.not_checked(key, "it is of another system: tests.projects.hrnet.recorded")


if __name__ == "__main__":
    main(check)
