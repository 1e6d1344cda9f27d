"""Pictures of predictions: the detections of a COCO results file drawn on the images of a registered data set.

``python -m densekit.formats.overlays --predictions coco_instances_results.json --dataset NAME --output DIR``
"""

import argparse
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

import densekit.data.builtin  # noqa: F401  (registers the standard names)
from densekit.d2.data import DatasetCatalog, Metadata, MetadataCatalog
from densekit.d2.structures import Instances
from densekit.d2.utils.logger import setup_logger
from densekit.d2.utils.visualizer import Visualizer
from densekit.data import register_from_yaml
from densekit.data.pictures import read_picture
from densekit.evaluation.predictions import read_results
from densekit.files.atomic import atomic_write
from densekit.formats.drawing import results_to_instances

_LONGER_SIDE = 1024  # of a picture at least, so that the names on small images can be read
_GAP = 8

logger = logging.getLogger(__name__)


def draw_overlays(
    predictions: str | Path,
    dataset_name: str,
    output: str | Path,
    *,
    count: int = 8,
    score_threshold: float = 0.5,
    ground_truth: bool = False,
) -> list[Path]:
    """Draws predictions on images that lie evenly through the data set; images with nothing to show are passed over.

    Args:
        predictions: A results file in COCO's format, as ``COCOEvaluator`` writes it.
        dataset_name: The registered data set that the predictions were made on.
        output: The folder for the pictures; made if it is missing.
        count: How many images.
        score_threshold: Detections below it are not drawn.
        ground_truth: Put the annotations to the right of the predictions.

    Returns:
        The PNG files, named after the image's place in the data set and its file.

    Raises:
        KeyError: The data set is not registered.
        ValueError: The results are not COCO's, or of other images or categories than the data set's.
    """
    if count < 1:
        raise ValueError(f"The count of pictures has to be positive, not {count}.")
    records = DatasetCatalog.get(dataset_name)
    if not records:
        raise ValueError(f"Data set '{dataset_name}' has no images.")
    metadata = MetadataCatalog.get(dataset_name)
    per_image = _by_image(read_results(Path(predictions)), records, Path(predictions), dataset_name)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    kept = [[r for r in per_image.get(d["image_id"], ()) if r["score"] >= score_threshold] for d in records]
    worth = [k for k, record in enumerate(records) if kept[k] or record.get("annotations")] or list(range(len(records)))
    chosen = sorted({worth[int(place)] for place in np.linspace(0, len(worth) - 1, count).round()})
    written = []
    for index in tqdm(chosen, desc="overlays", unit="image", disable=None):
        record = records[index]
        picture = _draw(record, results_to_instances(kept[index], record, metadata), metadata, ground_truth)
        path = folder / f"{index:05d}_{Path(record['file_name']).stem}.png"
        with atomic_write(path, "wb") as file:
            Image.fromarray(picture).save(file, format="PNG")
        written.append(path)
    if not any(kept[index] for index in chosen):
        best = max((r["score"] for results in per_image.values() for r in results), default=None)
        highest = "there are none at all" if best is None else f"the best score of all is {best:.3f}"
        logger.warning(f"No prediction on these images reaches the score {score_threshold}; {highest}.")
    return written


def _by_image(
    results: list[dict[str, Any]], records: Iterable[Mapping[str, Any]], path: Path, dataset_name: str
) -> dict[Any, list[dict[str, Any]]]:
    known = {record["image_id"] for record in records}
    strangers = [result["image_id"] for result in results if result["image_id"] not in known]
    if strangers:
        raise ValueError(
            f"{path} has predictions for images that '{dataset_name}' does not have, one is {strangers[0]!r}. Were "
            "they made on another data set?"
        )
    per_image: dict[Any, list[dict[str, Any]]] = {}
    for image_id, group in groupby(results, key=lambda result: result["image_id"]):
        per_image.setdefault(image_id, []).extend(group)
    return per_image


def _draw(record: dict[str, Any], instances: Instances, metadata: Metadata, ground_truth: bool) -> np.ndarray:
    """Returns the picture (H, W, 3) in RGB: the predictions, and to their right the annotations if wanted."""
    image = read_picture(record["file_name"], "RGB", record.get("bit_depth", 0))
    scale = max(1.0, _LONGER_SIDE / max(image.shape[:2]))
    panels = [Visualizer(image, metadata, scale=scale).draw_instance_predictions(instances).get_image()]
    if ground_truth:
        panels.append(Visualizer(image, metadata, scale=scale).draw_dataset_dict(record).get_image())
    gap = np.full((panels[0].shape[0], _GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([panels[0], *(part for panel in panels[1:] for part in (gap, panel))], axis=1)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; what is wrong with the input ends it with one line and the exit code 1."""
    parser = argparse.ArgumentParser(
        prog="python -m densekit.formats.overlays", description="Draw predictions on images."
    )
    parser.add_argument(
        "--predictions", required=True, metavar="JSON", help="coco_instances_results.json of an evaluation"
    )
    parser.add_argument("--dataset", required=True, metavar="NAME", help="the registered data set they were made on")
    parser.add_argument("--datasets", metavar="FILE", help="YAML file that names own data sets, as of train_net.py")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--count", type=int, default=8, help="how many images (8)")
    parser.add_argument("--score-threshold", type=float, default=0.5, help="leave out detections below it (0.5)")
    parser.add_argument("--ground-truth", action="store_true", help="put the annotations to the right")
    args = parser.parse_args(argv)
    setup_logger(name="densekit")
    try:
        if args.datasets:
            register_from_yaml(args.datasets, [args.dataset])
        written = draw_overlays(
            args.predictions,
            args.dataset,
            args.output,
            count=args.count,
            score_threshold=args.score_threshold,
            ground_truth=args.ground_truth,
        )
    except (OSError, KeyError, ValueError) as error:
        # A KeyError shows its message in quotes; the catalogue's is a sentence.
        sys.exit(f"error: {error.args[0] if isinstance(error, KeyError) else error}")
    logger.info(f"{len(written)} pictures are in {args.output}")


if __name__ == "__main__":
    main()
