"""Time and memory of Mask R-CNN R50-FPN on densekit's runtime and on Detectron2: same weights, same image, one process.

The two take turns, and which goes first alternates, so that a busy machine slows both; the ratio is taken within each
round and its median reported. Peak memory is that of a process of its own. Example::

    python benchmarks/compare_hosts.py --rounds 5 --threads 2
"""

import argparse
import importlib
import subprocess
import sys
from typing import Any

import numpy as np
import torch
from common import print_row, resident_peak, sharpen, spent

OWN = "densekit.runtime"

# Detectron2's Base-RCNN-FPN.yaml and mask_rcnn_R_50_FPN_1x.yaml.
MASK_RCNN_R50_FPN: dict[str, Any] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.MASK_ON": True,
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
}
GAINS = {"stem.conv1.norm.weight": 0.02, "conv3.norm.weight": 0.2}  # of the norms


class Contestant:
    """Mask R-CNN of one package, with a batch in that package's structures.

    Args:
        package: module name of the package, with Detectron2's layout.
        size: height and width of the image.
    """

    def __init__(self, package: str, size: tuple[int, int]) -> None:
        self.name = package
        cfg = importlib.import_module(f"{package}.config").get_cfg()
        for key, value in MASK_RCNN_R50_FPN.items():
            cfg.merge_from_list([key, value])
        self.model = importlib.import_module(f"{package}.modeling").build_model(cfg)
        self.storage = importlib.import_module(f"{package}.utils.events").EventStorage
        self.batch = [self._sample(importlib.import_module(f"{package}.structures"), size)]
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=0.9)

    @staticmethod
    def _sample(structures: Any, size: tuple[int, int], objects: int = 12) -> dict[str, Any]:
        """A noise image with boxes and polygons of many sizes."""
        height, width = size
        rng = np.random.default_rng(0)
        corner = rng.uniform(0, 0.6, (objects, 2)) * (width, height)
        extent = rng.uniform(0.03, 0.4, (objects, 2)) * (width, height)
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        circle = 0.5 + 0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        polygons = [[(c + circle * e).reshape(-1)] for c, e in zip(corner, extent)]
        boxes = torch.from_numpy(np.concatenate([corner, corner + extent], axis=1)).float()
        truth = structures.Instances(size)
        truth.gt_boxes = structures.Boxes(boxes)
        truth.gt_classes = torch.from_numpy(rng.integers(0, 80, objects))
        truth.gt_masks = structures.PolygonMasks(polygons)
        image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
        return {"image": image, "height": height, "width": width, "instances": truth}

    def inference(self) -> Any:
        self.model.eval()
        with torch.no_grad():
            return self.model(self.batch)

    def train(self) -> None:
        self.model.train()
        torch.manual_seed(0)  # the same proposals are sampled in each round
        with self.storage():
            loss = sum(self.model(self.batch).values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def peak_memory(package: str, mode: str, arguments: argparse.Namespace) -> float:
    """Peak resident memory, GiB, of a fresh process that does the thing a few times."""
    command = [sys.executable, __file__, "--memory-of", package, "--mode", mode, "--threads", str(arguments.threads)]
    command += ["--size", *map(str, arguments.size)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_peak_memory(arguments: argparse.Namespace) -> None:
    contestant = Contestant(arguments.memory_of, tuple(arguments.size))
    sharpen(contestant.model, GAINS)
    for _ in range(3):
        getattr(contestant, arguments.mode)()
    print(resident_peak() / 2**10)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="detectron2", help="package to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after one to warm up")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(800, 1066), metavar=("HEIGHT", "WIDTH"), help="of the image"
    )
    parser.add_argument("--mode", choices=("inference", "train"), help="measure only this; both by default")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    parser.add_argument("--memory-of", metavar="PACKAGE", help="print the peak memory of this package alone, GiB")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print_peak_memory(arguments)
        return
    modes = [arguments.mode] if arguments.mode else ["inference", "train"]
    # Before this process grows: a child's peak starts from what its parent holds.
    memory = {
        m: [peak_memory(p, m, arguments) for p in (OWN, arguments.peer)] for m in modes if not arguments.no_memory
    }
    own, peer = (Contestant(package, tuple(arguments.size)) for package in (OWN, arguments.peer))
    sharpen(peer.model, GAINS)
    own.model.load_state_dict(peer.model.state_dict())
    print(
        f"Mask R-CNN R50-FPN, {arguments.size[0]} x {arguments.size[1]}, CPU, {torch.get_num_threads()} threads, ",
        end="",
    )
    print(f"torch {torch.__version__}, {len(own.inference()[0]['instances'])} detections, {arguments.rounds} rounds")
    print(f"{'':22}{OWN:>18}{arguments.peer:>18}{'ratio':>9}   (lowest and highest)")
    for mode in modes:
        rounds = [one_round(own, peer, mode, own_first=turn % 2 == 0) for turn in range(arguments.rounds + 1)][1:]
        for label, clock in (("wall", 0), ("processor", 1)):
            print_row(f"{mode}, {label} s", [(mine[clock], theirs[clock]) for mine, theirs in rounds], width=18)
    for mode, (mine, theirs) in memory.items():
        print_row(f"{mode}, peak GiB", [(mine, theirs)], width=18)


def one_round(own: Contestant, peer: Contestant, mode: str, own_first: bool) -> tuple[Any, Any]:
    order = [own, peer] if own_first else [peer, own]
    times = {contestant.name: spent(getattr(contestant, mode)) for contestant in order}
    return times[own.name], times[peer.name]


if __name__ == "__main__":
    main()
