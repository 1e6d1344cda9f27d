"""Times of Mask R-CNN R50-FPN in densekit, Detectron2 and torchvision, in turns, on one picture and the CPU.

densekit's model stands as it is trained and in the form in which it predicts. Detectron2 has a part where it is
installed. All have random weights that act like trained ones; densekit's and Detectron2's are the same, torchvision's
are its own, so the number of detections, by which time differs a little, stands beside. Example::

    python benchmarks/peers.py --rounds 5 --threads 2
"""

import argparse
import importlib.util
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from common import sharpen, spent
from compare_hosts import GAINS, OWN, Contestant
from tabulate import tabulate

from densekit.deploy import optimize

PEER = "detectron2"
_TORCHVISION_GAINS = {"bn3.weight": 0.2}  # its pictures are of unit variance


def contestants(size: tuple[int, int]) -> dict[str, tuple[Callable[[], Any], Callable[[Any], int]]]:
    """Name -> one inference, and the number of detections in what it returns."""
    plain = Contestant(OWN, size)
    sharpen(plain.model, GAINS)
    fast = optimize(plain.model.eval())

    def predict_fast() -> Any:
        with torch.no_grad():
            return fast(plain.batch)

    def of_instances(outputs: Any) -> int:
        return len(outputs[0]["instances"])

    found = {"densekit": (predict_fast, of_instances), "densekit, as trained": (plain.inference, of_instances)}
    if importlib.util.find_spec(PEER):
        peer = Contestant(PEER, size)
        peer.model.load_state_dict(plain.model.state_dict())
        found["Detectron2"] = (peer.inference, of_instances)
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=min(size), max_size=max(size)
    ).eval()
    sharpen(model, _TORCHVISION_GAINS)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.mul_(10)  # its layers before are initialised smaller
    image = plain.batch[0]["image"].float() / 255

    def predict_torchvision() -> Any:
        with torch.no_grad():
            return model([image])

    found[f"torchvision {torchvision.__version__}"] = (predict_torchvision, lambda outputs: len(outputs[0]["boxes"]))
    return found


def main() -> None:
    """Prints the medians of all, and of their ratios to the first in the same round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after one to warm up")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1066), metavar=("H", "W"), help="of the picture")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    runs = contestants(tuple(args.size))
    counts = {name: count(run()) for name, (run, count) in runs.items()}
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(args.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:  # another one begins each round
            times[name].append(spent(runs[name][0])[0])
    first = times[names[0]]
    rows = []
    for name in names:
        ratios = [own / other for own, other in zip(first, times[name])]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append([name, f"{statistics.median(times[name]):.2f}", spread, counts[name]])
    print(f"Mask R-CNN R50-FPN, {args.size[0]} x {args.size[1]}, {args.threads} threads, {args.rounds} rounds")
    print(tabulate(rows, ["", "seconds", "densekit's time over it", "detections"], disable_numparse=True))


if __name__ == "__main__":
    main()
