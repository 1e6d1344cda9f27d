"""Checks pose estimation against recorded outputs of the authors', the parts of files that
``tests.projects.hrnet.recorded`` reads: ``python -m tests.projects.pose.recorded FILE``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from densekit.projects.hrnet.backbone import HRNetBackbone, norm_maker
from densekit.projects.hrnet.weights import NETWORK
from densekit.projects.pose.geometry import box_regions, crop, region_matrix, to_image
from densekit.projects.pose.head import PoseHead
from densekit.projects.pose.heatmaps import average_with_mirrored, decode, gaussian_targets, mirror_back, pose_loss
from densekit.projects.pose.suppression import COCO_SIGMAS, similarity, suppress
from densekit.projects.pose.weights import HEAD
from tests.projects.hrnet.recorded_net import load, network_of, probe, renamed, train_pass
from tests.recorded_cases import Cases, main

UNIT = 200.0  # pixels that a recorded scale of 1 stands for


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the authors' names to those of the host's model."""
    return renamed(weights, ("", "backbone.", NETWORK), ("", "pose_head.", HEAD))


def check_pose_net(recorded: Mapping[str, Any], cases: Cases) -> None:
    """HRNetV1 with its head, whose last exchange makes the finest branch alone."""
    weights = convert(recorded["state_dict"])
    # The authors' pose network has the first stage of the large networks whatever its configuration says.
    bottlenecks = len({name.split(".")[3] for name in weights if name.startswith("backbone.network.layer1.")})
    first = {"NUM_BLOCKS": [bottlenecks], "NUM_CHANNELS": [len(weights["backbone.network.layer1.0.conv1.weight"])]}
    norm = norm_maker("BN", recorded["bn_momentum"][0])
    network = network_of({**recorded["cfg"], "STAGE1": first}, norm=norm, outputs=1, init="normal")
    backbone = HRNetBackbone(network, out_features=["res2"])
    head = PoseHead(in_channels=network.channels[0], num_keypoints=recorded["joints"])
    model = nn.ModuleDict({"backbone": backbone, "pose_head": head})
    load(model, weights)

    def forward(x: Tensor) -> Tensor:
        return head(backbone(x)["res2"])

    model.eval()
    with torch.no_grad():
        cases.close("pose_v1: heat maps", forward(recorded["x"]), recorded["out_eval"])
    train_pass(cases, "pose_v1", recorded, model, forward, convert, probe)
    cases.not_checked("pose_v1: init_stats", "they are torch's own start, from before the authors' init_weights ran")


def check_pose_ops(recorded: Mapping[str, Any], cases: Cases) -> None:
    """Targets, loss, decoding, mirroring, crops, suppression."""
    checks = {
        "targets": check_targets,
        "mse": check_loss,
        "decode": check_decoding,
        "oks_nms": check_suppression,
    }
    for key, part in recorded.items():
        if key == "affine":
            decoded = recorded["decode"]
            check_crops(part, _regions(decoded["center"], decoded["scale"]), cases)
        elif key in checks:
            checks[key](part, cases)
        elif key == "flip":
            check_mirroring(part, recorded["decode"]["heatmaps"], cases)
        else:
            cases.not_checked(f"pose_ops {key}", "it is unknown")


def check_targets(recorded: Any, cases: Cases) -> None:
    for index, case in enumerate(recorded):
        size = tuple(case["target"].shape[-2:])
        stride = case["image_wh"][0] / size[1]
        target, weight = gaussian_targets(
            case["joints"][None, :, :2], case["visible"][None], size, stride, case["sigma"]
        )
        cases.close(f"targets {index}", target[0], case["target"])
        cases.close(f"targets {index}: weights", weight[0, :, None], case["weight"])


def check_loss(recorded: Mapping[str, Any], cases: Cases) -> None:
    output = recorded["output"].clone().requires_grad_()
    target, weight = recorded["target"], recorded["weight"][..., 0]
    loss = pose_loss(output, target, weight)
    cases.close("mse", loss, recorded["loss"])
    (gradient,) = torch.autograd.grad(loss, output)
    cases.close("mse: gradient", gradient, recorded["grad"], atol=1e-7)
    cases.close("mse without weights", pose_loss(output, target), recorded["loss_unweighted"])
    for key, value in recorded.items():
        if key.startswith("ohkm_top"):
            hardest = int(key.removeprefix("ohkm_top"))
            cases.close(key, pose_loss(output, target, weight, hardest), value)


def _regions(centers: Tensor, scales: Tensor) -> np.ndarray:
    return torch.cat([centers, UNIT * scales], dim=1).double().numpy()


def check_decoding(recorded: Mapping[str, Any], cases: Cases) -> None:
    height, width = recorded["heatmaps"].shape[-2:]
    shape = (round(1000 * recorded["aspect_ratio"]), 1000)
    regions = box_regions(np.array(recorded["boxes_xywh"]), shape)
    cases.close("decode: centers", regions[:, :2], recorded["center"])
    cases.close("decode: scales", regions[:, 2:] / UNIT, recorded["scale"])
    places, scores = decode(recorded["heatmaps"])
    cases.close("decode: scores", scores[..., None], recorded["maxvals"])
    # The authors' function for the maxima alone has no quarter of a pixel.
    cases.close("decode: maxima", places.round() * (recorded["maxvals"] > 0), recorded["max_preds"])
    ours = to_image(places.double().numpy(), _regions(recorded["center"], recorded["scale"]), (width, height))
    cases.close("decode: places in the image", ours, recorded["final_preds"])


def check_mirroring(recorded: Mapping[str, Any], maps: Tensor, cases: Cases) -> None:
    mirrored = mirror_back(maps, recorded["pairs"])
    cases.close("flip", mirrored, recorded["flipped_back"])
    cases.close("flip: average", average_with_mirrored(maps, mirrored), recorded["averaged_with_shift"])


def check_crops(recorded: Mapping[str, Any], regions: np.ndarray, cases: Cases) -> None:
    """Crops of the regions of the decoding case, by their numbers."""
    output, image = tuple(recorded["output_wh"]), recorded["image"].numpy()
    for number, case in enumerate(recorded["cases"]):
        matrix = region_matrix(regions[case["index"]], output, case["rot"])
        cases.close(f"affine {number}: matrix", matrix, case["matrix"])
        cases.agreement(f"affine {number}: pixels", torch.as_tensor(crop(image, matrix, output)), case["crop"])


def check_suppression(recorded: Mapping[str, Any], cases: Cases) -> None:
    points = recorded["keypoints"][..., :2].numpy()
    scores, areas = np.array(recorded["scores"]), np.array(recorded["areas"])
    sigmas = np.array(COCO_SIGMAS)
    alike = similarity(points[0], points, areas[0], areas, sigmas)
    cases.close("oks_nms: similarity with the first", alike, recorded["oks_with_first"])
    for threshold, kept in recorded["keep"].items():
        cases.equal(f"oks_nms {threshold}", suppress(points, scores, areas, threshold), list(kept))


def check(recorded: Mapping[str, Any], cases: Cases) -> None:
    """Checks the parts of one file that are of pose estimation."""
    for key, part in recorded.items():
        if key == "pose_v1":
            check_pose_net(part, cases)
        elif key == "pose_ops":
            check_pose_ops(part, cases)
        else:
            cases.not_checked(key, "it is of another system: tests.projects.hrnet.recorded")


if __name__ == "__main__":
    main(check)
