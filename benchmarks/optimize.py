"""Times a model as it is trained and as ``densekit.optimize`` makes it, in turns, on one picture and the CPU.

    python -m benchmarks.optimize --threads 2 --rounds 5

Random weights that act like trained ones. ``--dtype bfloat16`` is refused where the processor does not compute in it.
"""

import argparse

import torch

from benchmarks.common import print_row, sharpen, spent
from densekit.config import load_config
from densekit.config_files import find_config
from densekit.d2 import HOST
from densekit.d2.modeling import build_model
from densekit.deploy import optimize
from densekit.ops.processor import computes_in_bfloat16


def main() -> None:
    """Prints the medians of both models' wall times in seconds, and of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1066), metavar=("H", "W"), help="of the picture")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    args = parser.parse_args()
    if args.dtype == "bfloat16" and not computes_in_bfloat16():
        parser.error("this processor does not compute in bfloat16")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = build_model(load_config(find_config(args.config_file), ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])).eval()
    sharpen(model, {"conv3.norm.weight": 0.2})
    fast = optimize(model, dtype=args.dtype)
    height, width = args.size
    picture = {"image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8), "height": height, "width": width}
    pairs = []
    with torch.no_grad():
        found = [len(either([picture])[0]["instances"]) for either in (fast, model)]  # and warms both up
        for index in range(args.rounds):
            order = ((0, fast), (1, model)) if index % 2 else ((1, model), (0, fast))
            times = {side: spent(lambda either=either: either([picture]))[0] for side, either in order}
            pairs.append((times[0], times[1]))
    print(f"host {HOST}, {args.threads} threads, {height} x {width}, {args.dtype}, detections {found}")
    print(f"{'':22}{'optimized':>12}{'plain':>12}{'ratio':>9}")
    print_row("seconds a picture", pairs)


if __name__ == "__main__":
    main()
