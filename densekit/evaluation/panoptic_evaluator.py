"""The evaluator for panoptic segmentation with COCO's panoptic quality."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from torch import Tensor

from densekit.d2.data import Metadata, MetadataCatalog
from densekit.d2.evaluation import DatasetEvaluator
from densekit.data.panoptic_json import PanopticFile
from densekit.evaluation.gathering import check_all_there, gathered_once
from densekit.evaluation.panoptic_truth import PanopticTruth
from densekit.files.atomic import atomic_write
from densekit.files.panoptic_png import write_panoptic_png
from densekit.metrics.panoptic_quality import Quality, match_segments, mean_quality, panoptic_quality

Segment = dict[str, Any]

_FOLDER = "panoptic"
_KEPT = ("id", "category_id", "area", "score")

logger = logging.getLogger(__name__)


class COCOPanopticEvaluator(DatasetEvaluator):
    """Panoptic, segmentation and recognition quality (arXiv:1801.00868) on a registered data set in COCO's format.

    Takes a model's ``"panoptic_seg"``. Each process compares its images as they come, and writes their PNGs; only the
    outcome is gathered. The main process refuses to judge when images are missing.

    Into ``output_dir`` go ``predictions.json``, the ground truth's images and categories with the predicted segments,
    and the PNGs that it names, in ``panoptic/``.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None, *, distributed: bool = True) -> None:
        """Reads the ground truth.

        Args:
            dataset_name: A registered data set with ``panoptic_json`` and ``panoptic_root``.
            output_dir: Where the files go; by default nothing is written.
            distributed: Gather from all processes; else each process evaluates what it has seen.

        Raises:
            ValueError: The data set names no panoptic annotation, or it is not COCO's.
        """
        self._dataset_name = dataset_name
        self._output_dir = Path(output_dir) if output_dir else None
        self._distributed = distributed
        self._truth = PanopticTruth.of(dataset_name)
        self.reset()

    def reset(self) -> None:
        self._predictions: list[dict[str, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Takes in one batch.

        Args:
            inputs: One dict per image with its ``"image_id"``.
            outputs: One dict per image; ``"panoptic_seg"`` is the map (H, W) in the original image's pixels and its
                segments, or None for a map of category * ``label_divisor`` + instance that is -1 where it is void.

        Raises:
            ValueError: An image or a class that the data set does not have, or a map of another size.
        """
        metadata = MetadataCatalog.get(self._dataset_name)
        for item, output in zip(inputs, outputs):
            if "panoptic_seg" not in output:
                continue
            image_id = item["image_id"]
            if image_id not in self._truth.file.annotations:
                raise ValueError(f"{self._truth.file.path} has no annotation of image {image_id!r}.")
            try:
                ids, segments = listed_segments(output["panoptic_seg"], metadata)
                self._predictions.append(self._compare(image_id, ids, segments))
            except ValueError as error:
                raise ValueError(f"Image {image_id!r} of '{self._dataset_name}': {error}") from error

    def evaluate(self) -> Mapping[str, Any]:
        """Returns the numbers, and writes ``predictions.json``.

        Returns:
            ``{"panoptic_seg": {"PQ", "SQ", "RQ", "PQ_th" ... "RQ_st", "PQ-<class>" ...}}``, 0 to 100, NaN where
            there was nothing to judge. Empty in other processes than the main one.

        Raises:
            ValueError: Images of the data set were not predicted.
        """
        truth = self._truth.file
        places = {key: place for place, key in enumerate(truth.annotations)}
        predictions = gathered_once(self._predictions, places, truth.path, distributed=self._distributed)
        if predictions is None:
            return {}
        if not self._are_complete(predictions):
            return {}
        if self._output_dir is not None:
            _write_predictions(self._document(self._output_dir), self._pngs(self._output_dir), truth, predictions)
        qualities = panoptic_quality((prediction["matching"] for prediction in predictions), list(truth.categories))
        return {"panoptic_seg": _report(qualities, truth.categories)}

    def _document(self, output_dir: Path) -> Path:
        return output_dir / "predictions.json"

    def _pngs(self, output_dir: Path) -> Path:
        return output_dir / _FOLDER

    def _png_name(self, image_id: Any) -> str:
        return str(Path(self._truth.png_name(image_id)).with_suffix(".png"))

    def _are_complete(self, predictions: list[dict[str, Any]]) -> bool:
        """Tells whether there are predictions; raises an error if some images have none."""
        if not predictions:
            logger.warning(f"No output with 'panoptic_seg' was received for '{self._dataset_name}'.")
            return False
        check_all_there(predictions, self._truth.file.annotations, self._truth.file.path)
        return True

    def _compare(self, image_id: Any, ids: np.ndarray, segments: list[Segment]) -> dict[str, Any]:
        """Returns what is to be gathered of one image; writes its PNG."""
        categories = {segment["id"]: segment["category_id"] for segment in segments}
        matching = match_segments(self._truth.ids(image_id), self._truth.segments(image_id), ids, categories)
        name = self._png_name(image_id)
        if self._output_dir is not None:
            path = self._pngs(self._output_dir) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_panoptic_png(path, ids)
        return {"image_id": image_id, "file_name": name, "segments_info": segments, "matching": matching}


def listed_segments(
    panoptic_seg: tuple[Tensor, list[Segment] | None], metadata: Metadata
) -> tuple[np.ndarray, list[Segment]]:
    """Returns the map (H, W) with void as 0, and those segments that have a pixel, in the data set's category ids.

    Args:
        panoptic_seg: A model's, as of :meth:`COCOPanopticEvaluator.process`.
        metadata: Of the data set.

    Raises:
        ValueError: The model predicts a class that the data set does not have.
    """
    panoptic, segments = panoptic_seg
    ids = panoptic.cpu().numpy()
    if segments is None:
        segments, ids = _segments_of(ids, metadata), ids + 1
    drawn, areas = np.unique(ids, return_counts=True)
    area = dict(zip(drawn.tolist(), areas.tolist()))
    seen = [segment | {"area": area[segment["id"]]} for segment in segments if segment["id"] in area]
    listed = [segment | {"category_id": _category_id(segment, metadata)} for segment in seen]
    return ids, [{key: segment[key] for key in _KEPT if key in segment} for segment in listed]


def _segments_of(ids: np.ndarray, metadata: Metadata) -> list[Segment]:
    """The segments of a map that has category * label_divisor + instance, and -1 for void; ids from 1."""
    things = set(metadata.thing_dataset_id_to_contiguous_id.values())
    classes = {value: value // metadata.label_divisor for value in np.unique(ids).tolist() if value >= 0}
    return [{"id": key + 1, "category_id": label, "isthing": label in things} for key, label in classes.items()]


def _category_id(segment: Segment, metadata: Metadata) -> int:
    """The data set's category of a segment; a model that does not say whether it is a thing has given it already."""
    if "isthing" not in segment:
        return segment["category_id"]
    kind = "thing" if segment["isthing"] else "stuff"
    classes = metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {}
    for category_id, label in classes.items():
        if label == segment["category_id"]:
            return category_id
    raise ValueError(
        f"the model predicts the {kind} class {segment['category_id']}; the data set has {sorted(classes.values())}."
    )


def _write_predictions(path: Path, pngs: Path, truth: PanopticFile, predictions: list[dict[str, Any]]) -> None:
    kept = ("image_id", "file_name", "segments_info")
    content = {
        "images": list(truth.images.values()),
        "annotations": [{key: prediction[key] for key in kept} for prediction in predictions],
        "categories": list(truth.categories.values()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(json.dumps(content, allow_nan=False))
    logger.info(f"Predictions are in {path}, their PNGs in {pngs}")


def _report(qualities: Mapping[int, Quality], categories: Mapping[int, Mapping[str, Any]]) -> dict[str, float]:
    """Logs the tables and returns the numbers under Detectron2's names."""
    groups = {
        "": list(qualities),
        "_th": [key for key in qualities if categories[key]["isthing"]],
        "_st": [key for key in qualities if not categories[key]["isthing"]],
    }
    means = {ending: mean_quality(qualities[key] for key in keys) for ending, keys in groups.items()}
    judged = {ending: sum(qualities[key].is_judged for key in keys) for ending, keys in groups.items()}
    numbers = {ending: _percent(mean) for ending, mean in means.items()}
    rows = [[name, *numbers[e].values(), judged[e]] for e, name in zip(groups, ("All", "Things", "Stuff"))]
    logger.info("Panoptic quality:\n" + _table(["", "PQ", "SQ", "RQ", "classes"], rows))
    per_class = {categories[key]["name"]: _percent(quality) for key, quality in qualities.items()}
    rows = [[name, *values.values()] for name, values in per_class.items()]
    logger.info("Panoptic quality per class:\n" + _table(["class", "PQ", "SQ", "RQ"], rows))
    scores = {f"{name}{ending}": value for ending, values in numbers.items() for name, value in values.items()}
    return scores | {f"{name}-{of}": value for of, values in per_class.items() for name, value in values.items()}


def _percent(quality: Quality) -> dict[str, float]:
    return {"PQ": 100 * quality.pq, "SQ": 100 * quality.sq, "RQ": 100 * quality.rq}


def _table(headers: list[str], rows: list[list[Any]]) -> str:
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f", stralign="left", numalign="right")
