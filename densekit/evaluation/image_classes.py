"""The evaluator for classes of whole images: how often the right one is the first, and among the first five."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.d2.evaluation import DatasetEvaluator
from densekit.d2.utils.logger import create_small_table
from densekit.data.identity import class_ids
from densekit.evaluation.gathering import check_all_there, gathered_once
from densekit.evaluation.predictions import write_json_list

__all__ = ["ImageClassEvaluator"]

logger = logging.getLogger(__name__)

_FIRST = 5
_FILE = "image_class_predictions.json"


class ImageClassEvaluator(DatasetEvaluator):
    """Top-1 and top-5 accuracy on a registered data set whose records have the ``category_id`` of the image.

    Takes a model's ``"class_scores"`` (K,). Into ``output_dir`` goes ``image_class_predictions.json``, for each image
    the data set's ids of the first five classes with their scores, best first. With fewer than five classes all count
    as the first five.

    Args:
        dataset_name: A registered data set with ``thing_classes``.
        output_dir: Where the file goes; by default none is written.
        distributed: Gather from all processes; else each process evaluates what it has seen.

    Raises:
        ValueError: An image has no class.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None, *, distributed: bool = True) -> None:
        self._source = f"'{dataset_name}'"
        self._output_dir = Path(output_dir) if output_dir else None
        self._distributed = distributed
        metadata = MetadataCatalog.get(dataset_name)
        records = DatasetCatalog.get(dataset_name)
        self._classes: Sequence[str] = metadata.get("thing_classes") or ()
        self._ids = class_ids(metadata, "thing")
        without = next((record for record in records if "category_id" not in record), None)
        if without is not None or not self._classes:
            named = f"image {without['file_name']}" if without is not None else "the data set"
            raise ValueError(f"{named} of {self._source} has no class. The form 'classes' takes a folder for each.")
        self._truth = {record["image_id"]: record["category_id"] for record in records}
        self.reset()

    def reset(self) -> None:
        self._predictions: list[dict[str, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Takes in one batch.

        Args:
            inputs: One dict per image with its ``"image_id"`` and ``"file_name"``.
            outputs: One dict per image with ``"class_scores"``.

        Raises:
            ValueError: The model has another number of classes.
        """
        for item, output in zip(inputs, outputs):
            scores = output["class_scores"]
            if len(scores) != len(self._classes):
                raise ValueError(
                    f"The model scores {len(scores)} classes and {self._source} has {len(self._classes)}. Set "
                    f"MODEL.CLASSIFIER.NUM_CLASSES {len(self._classes)}."
                )
            best = scores.float().topk(min(_FIRST, len(scores)))
            self._predictions.append(
                {
                    "image_id": item["image_id"],
                    "file_name": item["file_name"],
                    "classes": best.indices.tolist(),
                    "scores": best.values.tolist(),
                }
            )

    def evaluate(self) -> Mapping[str, Any]:
        """Returns the numbers, and writes the predictions.

        Returns:
            ``{"image_classes": {"top1", "top5", "top1-mean", "top1-<class>" ...}}``, 0 to 100; the mean is that of the
            classes that occur, NaN stands for others. Empty in other processes than the main one.

        Raises:
            ValueError: Images of the data set were not predicted.
        """
        places = {key: place for place, key in enumerate(self._truth)}
        predictions = gathered_once(self._predictions, places, self._source, distributed=self._distributed)
        if predictions is None:
            return {}
        if not predictions:
            logger.warning(f"No output with 'class_scores' was received for {self._source}.")
            return {}
        check_all_there(predictions, places, self._source)
        if self._output_dir is not None:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            write_json_list(self._output_dir / _FILE, [self._entry(prediction) for prediction in predictions])
        return {"image_classes": self._report(predictions)}

    def _entry(self, prediction: Mapping[str, Any]) -> dict[str, Any]:
        found = zip(prediction["classes"], prediction["scores"])
        classes = [{"category_id": self._ids[number], "score": score} for number, score in found]
        return {"image_id": prediction["image_id"], "file_name": prediction["file_name"], "classes": classes}

    def _report(self, predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        truth = np.array([self._truth[prediction["image_id"]] for prediction in predictions])
        first = np.array([prediction["classes"][0] for prediction in predictions]) == truth
        among = np.array([self._truth[p["image_id"]] in p["classes"] for p in predictions])
        each = [first[truth == number] for number in range(len(self._classes))]
        recall = [float(100 * hits.mean()) if len(hits) else float("nan") for hits in each]
        main = {
            "top1": float(100 * first.mean()),
            "top5": float(100 * among.mean()),
            "top1-mean": float(np.nanmean(recall)),
        }
        logger.info("Evaluation results for image_classes:\n" + create_small_table(main))
        rows = [(name, len(hits), value) for name, hits, value in zip(self._classes, each, recall)]
        logger.info(
            "Per class:\n" + tabulate(rows, headers=["class", "images", "top1"], tablefmt="pipe", floatfmt=".3f")
        )
        return main | {f"top1-{name}": value for name, value in zip(self._classes, recall)}
