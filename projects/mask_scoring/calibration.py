"""Calibration of mask scores against true overlaps (figure 2 of arXiv 1903.00241), and the gain of perfect scores.

``python -m densekit.projects.mask_scoring.calibration --predictions coco_instances_results.json --dataset NAME
--output plot.png`` draws the score of every detection against the true overlap of its mask, and reports the mask AP
when masks are ranked by the class score, by the mask score, and by class score times true overlap: the upper bound.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
from tabulate import tabulate

import densekit.data.builtin  # noqa: F401  (registers the standard names)
from densekit.d2.utils.logger import setup_logger
from densekit.data import register_from_yaml
from densekit.data.ground_truth import GroundTruth
from densekit.engine.errors import user_errors
from densekit.evaluation.coco_metrics import evaluate_coco
from densekit.evaluation.predictions import read_results
from densekit.files.atomic import atomic_write

Results = Sequence[Mapping[str, Any]]


def true_overlaps(truth: GroundTruth, results: Results) -> np.ndarray:
    """The overlap of each predicted mask with the best object of its class in its image.

    Args:
        truth: with ``segmentation`` in every annotation.
        results: COCO results with ``segmentation``, in the data set's ids.

    Returns:
        One IoU per result, 0 to 1; 0 where the image has no object of the class. Crowds are no objects.
    """
    objects, found = defaultdict(list), defaultdict(list)
    for annotation in truth.coco.anns.values():
        if not annotation.get("iscrowd", 0):
            objects[annotation["image_id"], annotation["category_id"]].append(truth.coco.annToRLE(annotation))
    for number, result in enumerate(results):
        found[truth.image_numbers[result["image_id"]], result["category_id"]].append(number)
    overlaps = np.zeros(len(results))
    for key, numbers in found.items():
        if objects[key]:
            masks = [results[number]["segmentation"] for number in numbers]
            overlaps[numbers] = mask_utils.iou(masks, objects[key], [0] * len(objects[key])).max(axis=1)
    return overlaps


def mask_aps(truth: GroundTruth, results: Results, overlaps: np.ndarray) -> dict[str, dict[str, float]]:
    """Mask AP, AP50 and AP75, 0 to 100, for each way to rank the masks."""
    ranked = {
        "class score": [result["score"] for result in results],
        "mask score": [result.get("mask_score", result["score"]) for result in results],
        "upper bound": [result["score"] * overlap for result, overlap in zip(results, overlaps)],
    }
    aps = {}
    for name, scores in ranked.items():
        rescored = [{**result, "mask_score": float(score)} for result, score in zip(results, scores)]
        metrics = evaluate_coco(truth, rescored, "segm").metrics
        aps[name] = {key: metrics[key] for key in ("AP", "AP50", "AP75")}
    return aps


def correlation(scores: Sequence[float], overlaps: np.ndarray) -> float:
    """Pearson's; NaN where one of both does not vary."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(scores, overlaps)[0, 1]) if len(overlaps) > 1 else float("nan")


def plot(results: Results, overlaps: np.ndarray, path: Path) -> None:
    """Draws class score and mask score of every detection against its mask's true overlap, into a PNG file."""
    from matplotlib.figure import Figure  # here, since it is slow to import

    figure = Figure(figsize=(9, 4.5))
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, (name, key) in zip(panels, (("class score", "score"), ("mask score", "mask_score"))):
        scores = [result.get(key, result["score"]) for result in results]
        panel.scatter(overlaps, scores, s=4, alpha=0.3, linewidths=0)
        panel.plot([0, 1], [0, 1], color="black", linewidth=0.5)
        panel.set(xlim=(0, 1), ylim=(0, 1), xlabel="true overlap of the mask", ylabel=name, aspect="equal")
        panel.set_title(f"correlation {correlation(scores, overlaps):.2f}")
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", bbox_inches="tight")


def read_masks(path: Path) -> list[dict[str, Any]]:
    """The results with masks of a COCO results file.

    Raises:
        ValueError: the file is not one, or it has no masks.
    """
    results = read_results(path, needed=("image_id", "category_id", "score"))
    if not results or not all("segmentation" in result for result in results):
        raise ValueError(f"{path} has no masks; take the coco_instances_results.json of a model that predicts them.")
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; what is wrong with the input ends it with one line and the exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m densekit.projects.mask_scoring.calibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--predictions", required=True, type=Path, metavar="JSON", help="results of an evaluation")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="the registered data set they were made on")
    parser.add_argument("--datasets", metavar="FILE", help="YAML file that names own data sets, as of train_net.py")
    parser.add_argument("--output", required=True, type=Path, metavar="PNG", help="the picture")
    args = parser.parse_args(argv)
    setup_logger(name="densekit")
    with user_errors():
        if args.datasets:
            register_from_yaml(args.datasets)
        results, truth = read_masks(args.predictions), GroundTruth.of(args.dataset)
        strangers = {result["image_id"] for result in results} - truth.image_numbers.keys()
        if strangers:
            raise ValueError(
                f"{args.predictions} has images that '{args.dataset}' does not have, one is {strangers.pop()!r}."
            )
        overlaps = true_overlaps(truth, results)
        aps = mask_aps(truth, results, overlaps)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        plot(results, overlaps, args.output)
    rows = [[name, *metrics.values()] for name, metrics in aps.items()]
    table = tabulate(rows, headers=["masks ranked by", "AP", "AP50", "AP75"], tablefmt="pipe", floatfmt=".2f")
    print(f"{len(results)} masks, drawn in {args.output}. Mask AP:\n{table}")


if __name__ == "__main__":
    main()
