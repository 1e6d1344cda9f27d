"""Cost of CARAFE in pyramid and mask head in the inference of Mask R-CNN R50-FPN, on one host in one process.

Three models take turns on one image: without CARAFE, with CARAFE and the host's max-pooled top level, and the published
model, whose top level is a convolution. What they share has equal weights. Example::

    python benchmarks/carafe_detector.py --rounds 9 --threads 2
"""

import argparse
import statistics
from pathlib import Path

import torch
from common import sharpen, spent

from densekit.config import load_config
from densekit.d2.modeling import build_model

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "carafe" / "mask_rcnn_R_50_FPN_carafe_1x.yaml"
MODELS = {
    "without": ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.ROI_MASK_HEAD.UPSAMPLER", "deconv"],
    "CARAFE, max-pooled top": ["MODEL.FPN.TOP_LEVEL", "maxpool"],
    "CARAFE, as published": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds after one to warm up")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1066), metavar=("HEIGHT", "WIDTH"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    height, width = args.size
    image = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batch = [{"image": image, "height": height, "width": width}]
    models = {}
    for name, options in MODELS.items():
        cfg = load_config(str(CONFIG), ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *options])
        models[name] = build_model(cfg).eval()
    sharpen(models["without"], {"conv3.norm.weight": 0.2})
    for model in models.values():
        model.load_state_dict(models["without"].state_dict(), strict=False)
    names = list(models)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with torch.no_grad():
        found = {name: len(model(batch)[0]["instances"]) for name, model in models.items()}
        for turn in range(args.rounds):
            for name in names if turn % 2 else reversed(names):
                times[name].append(spent(lambda model=models[name]: model(batch)))
    print(f"Mask R-CNN R50-FPN, {height} x {width}, {args.threads} threads, {args.rounds} rounds")
    for name in names:
        wall, processor = (
            statistics.median(own[clock] / base[clock] for own, base in zip(times[name], times["without"]))
            for clock in (0, 1)
        )
        print(
            f"{name:24}{statistics.median(t[0] for t in times[name]):8.3f} s{wall - 1:+8.1%} wall{processor - 1:+8.1%} "
            f"processor, {found[name]} detections"
        )


if __name__ == "__main__":
    main()
