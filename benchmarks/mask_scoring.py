"""Cost of mask scoring in the inference of Mask R-CNN R50-FPN: same weights, same image, one process.

The two take turns. The weights are random, so the number of detections is a setting: COCO's limit is 100, and trained
models find a few dozen in most images. Example::

    python benchmarks/mask_scoring.py --rounds 7 --threads 2 --detections 100 30
"""

import argparse
import statistics
from pathlib import Path

import torch
from common import sharpen, spent
from torch import nn

from densekit.config import load_config
from densekit.d2.modeling import build_model

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PLAIN = CONFIGS / "COCO-InstanceSegmentation" / "mask_rcnn_R_50_FPN_1x.yaml"
SCORED = CONFIGS / "mask_scoring" / "mask_scoring_R_50_FPN_1x.yaml"
GAINS = {"stem.conv1.norm.weight": 0.02, "conv3.norm.weight": 0.2}  # of the norms


def build(config: Path, detections: int) -> nn.Module:
    """The model of a config with at most so many detections."""
    opts = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "TEST.DETECTIONS_PER_IMAGE", str(detections)]
    return build_model(load_config(str(config), opts)).eval()


def compare(detections: int, size: tuple[int, int], rounds: int) -> None:
    """Prints one line."""
    plain, scored = build(PLAIN, detections), build(SCORED, detections)
    sharpen(plain, GAINS)
    scored.load_state_dict(plain.state_dict(), strict=False)
    image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batch = [{"image": image, "height": size[0], "width": size[1]}]
    times: dict[str, list[tuple[float, float]]] = {"plain": [], "scored": []}
    with torch.no_grad():
        found = len(plain(batch)[0]["instances"])
        scored(batch)
        for turn in range(rounds):
            models = [("plain", plain), ("scored", scored)]
            for name, model in models if turn % 2 else models[::-1]:
                times[name].append(spent(lambda model=model: model(batch)))
    wall, processor = (
        statistics.median(own[clock] / base[clock] for own, base in zip(times["scored"], times["plain"]))
        for clock in (0, 1)
    )
    seconds = statistics.median(own[0] for own in times["plain"])
    added = f"scoring adds {wall - 1:+.1%} wall, {processor - 1:+.1%} processor"
    print(f"{found} detections: Mask R-CNN {seconds:.3f} s; {added}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds after one to warm up")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1066), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--detections", type=int, nargs="+", default=[100, 30])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for detections in args.detections:
        compare(detections, tuple(args.size), args.rounds)


if __name__ == "__main__":
    main()
