"""Time of PointRend's mask head in inference, here and in Detectron2's project: same weights, same maps, same boxes.

The two take turns, and which goes first alternates, so that a busy machine slows both; the ratio is taken within each
round and its median reported. Needs Detectron2 with its projects. densekit's head runs on its own runtime. Example::

    DENSEKIT_HOST=builtin python benchmarks/pointrend_head.py --rounds 5 --threads 2
"""

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("DENSEKIT_HOST", "builtin")

import torch

from densekit.config import load_config

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "pointrend"
KINDS = {"standard": "pointrend_rcnn_R_50_FPN_1x_coco.yaml", "implicit": "implicit_pointrend_R_50_FPN_1x_coco.yaml"}


def build(package: str, kind: str) -> torch.nn.Module:
    """The head of a package, of full size, for 80 classes."""
    cfg = load_config(str(CONFIGS / KINDS[kind]))
    if package == "detectron2":
        theirs = importlib.import_module("detectron2.config").get_cfg()
        importlib.import_module("detectron2.projects.point_rend").add_pointrend_config(theirs)
        theirs.MODEL.ROI_MASK_HEAD.merge_from_other_cfg(type(theirs)(_known(cfg, theirs, "ROI_MASK_HEAD")))
        theirs.MODEL.POINT_HEAD.merge_from_other_cfg(type(theirs)(_known(cfg, theirs, "POINT_HEAD")))
        names = {"standard": "PointRendMaskHead", "implicit": "ImplicitPointRendMaskHead"}
        theirs.MODEL.ROI_MASK_HEAD.NAME = names[kind]
        cfg = theirs
    shape = importlib.import_module(f"{package}.layers").ShapeSpec(channels=256, stride=4)
    return importlib.import_module(f"{package}.modeling.roi_heads").build_mask_head(cfg, {"p2": shape}).eval()


def _known(cfg: Any, theirs: Any, node: str) -> dict[str, Any]:
    return {key: value for key, value in cfg.MODEL[node].items() if key in theirs.MODEL[node]}


def detections(package: str, size: tuple[int, int], count: int) -> Any:
    """Boxes of many sizes in an image of (height, width)."""
    structures = importlib.import_module(f"{package}.structures")
    generator = torch.Generator().manual_seed(0)
    frame = torch.tensor([size[1], size[0]])
    corner = torch.rand(count, 2, generator=generator) * frame * 0.7
    extent = (0.03 + 0.27 * torch.rand(count, 2, generator=generator)) * frame
    x = structures.Instances(size)
    x.pred_boxes = structures.Boxes(torch.cat([corner, corner + extent], dim=1))
    x.pred_classes = torch.randint(80, (count,), generator=generator)
    return [x]


def clock(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(kind: str, size: tuple[int, int], count: int, rounds: int) -> None:
    """Prints one line."""
    torch.manual_seed(0)
    heads = {package: build(package, kind) for package in ("densekit.runtime", "detectron2")}
    for name, parameter in heads["detectron2"].named_parameters():
        if "predict" in name:  # as drawn it is so small that no point is more uncertain than another
            torch.nn.init.normal_(parameter, std=0.05)
    heads["densekit.runtime"].load_state_dict(heads["detectron2"].state_dict())
    features = {"p2": torch.randn(1, 256, size[0] // 4, size[1] // 4)}

    def run(package: str) -> torch.Tensor:
        with torch.no_grad():
            return heads[package](features, detections(package, size, count))[0].pred_masks

    masks = {package: run(package) for package in heads}
    equal = ((masks["detectron2"] > 0.5) == (masks["densekit.runtime"] > 0.5)).float().mean().item()
    times: dict[str, list[float]] = {package: [] for package in heads}
    for turn in range(rounds):
        for package in list(heads)[:: 1 if turn % 2 else -1]:
            times[package].append(clock(lambda package=package: run(package)))
    own, theirs = times["densekit.runtime"], times["detectron2"]
    ratio = statistics.median(a / b for a, b in zip(own, theirs))
    print(
        f"{kind}, {count} boxes, {size[0]} x {size[1]}: densekit {statistics.median(own):.3f} s, Detectron2 "
        f"{statistics.median(theirs):.3f} s, {ratio:.2f} x the time; pixels that agree: {equal:.4%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--boxes", type=int, default=100)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1088), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=sorted(KINDS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for kind in args.kinds:
        compare(kind, tuple(args.size), args.boxes, args.rounds)


if __name__ == "__main__":
    main()
